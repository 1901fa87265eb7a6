"""Configurations; each file has `get_config`, base.py every key."""


def parse_argument(
  argument: str, sizes: tuple[str, ...], options: tuple[str, ...]
) -> tuple[str, set[str]]:
  """Splits the argument of a recipe, such as 'XL/2,ig'.

  Args:
    argument: Text SIZE/PATCH[,OPTION...].
    sizes: Sizes that the recipe has.
    options: Options that the recipe has.

  Returns:
    The part 'SIZE/PATCH', and the options.

  Raises:
    ValueError: for any other text; its arguments are the message, the wrong
      words and the known words.
  """
  name, *given = argument.split(',')
  size = name.partition('/')[0]
  wrong = [size] * (size not in sizes) + [o for o in given if o not in options]
  if wrong or len({*given}) < len(given):
    raise ValueError(
      f'{argument!r} is not SIZE/PATCH[,OPTION...] with sizes '
      f'{", ".join(sizes)} and options {", ".join(options)}',
      wrong[:1],
      (*sizes, *options),
    )
  return name, {*given}
