r"""Trains, samples, distills and evaluates Diffusion Transformers.

  python main.py prepare --images=photos --config.data.name=photos
  python main.py train   --config=configs/digits.py --workdir=runs/digits
  python main.py distill --config=configs/distill/digits.py:hybrid,4 \
    --teacher=runs/digits --workdir=runs/student
  python main.py sample  --workdir=runs/digits --guidance=ig:1.5,cfg:1.2
  python main.py compare --workdir=runs/digits --guidance=none --guidance=ig:1.5
  python main.py sweep   --workdir=runs/digits --guidance=ig:1..2:6,cfg:1..2:6
  python main.py evaluate --workdir=runs/digits --num=500 --bootstrap=50
  python main.py report  --workdir=runs/digits
  python main.py explore --workdir=runs/digits
  python main.py reference --images=photos --extractor=inception:FILE --to=r.npz
  python main.py train-features --config=configs/cifar10.py --to=features
  python main.py convert --from=runs/digits --to=digits-ema
  python main.py convert --from=runs/digits --to=digits-int8 --quantize=int8
  python main.py sample  --folder=digits-ema --config.sample.steps=50

Exit status: 0 for success, or for a requested stop after saving; 1 for failure;
2 for invalid input; 130 for an interrupt of a command that does not save; 143
for SIGTERM.
"""

import errno
import sys
from collections.abc import Sequence

from commands import cli
from core import program
from core.errors import InputError, RunError


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command, by default from sys.argv; returns the exit status."""
  try:
    words = sys.argv[1:] if argv is None else argv
    return cli.run(cli.parse_args(words, __doc__))
  except InputError as error:
    _print_error(f'{error}')
    return 2
  except RunError as error:
    _print_error(f'{error}')
    return 1
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
      raise
    _print_error(f'{error}; make room and repeat the command.')
    return 1
  except KeyboardInterrupt:
    _print_error('interrupted.')
    return 130


def _print_error(message: str) -> None:
  print(f'{program.name()}: {program.localize(message)}', file=sys.stderr)


if __name__ == '__main__':
  sys.exit(main())
