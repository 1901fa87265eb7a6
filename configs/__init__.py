"""Config files, each with a function `get_config`; base.py lists all keys."""


def parse_argument(
  argument: str, sizes: tuple[str, ...], options: tuple[str, ...]
) -> tuple[str, set[str]]:
  """Splits SIZE/PATCH[,OPTION...], as in 'XL/2,ig', into name and options.

  Raises:
    ValueError: The recipe has no such size or option. The error's arguments
      are the message, the wrong words and the known words.
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
