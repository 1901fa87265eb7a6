"""The page of `explore`, in Gradio."""

import argparse
import importlib.resources
import importlib.util
import socket
import threading
from collections.abc import Callable
from typing import Annotated, Any

from commands.explore import pictures
from commands.explore.explorer import Explorer
from commands.explore.settings import Dial, Settings
from commands.sample_job import request_of
from core.errors import InputError
from core.ranges import Range, check_value

_STEPS = 100  # largest number of steps on the slider
_METHODS = {  # label and largest scale of each method's slider
  'ig': ('Internal Guidance (ig)', 3),
  'cfg': ('Classifier-free guidance (cfg)', 6),
  's2': ('S2-Guidance (s2)', 3),
  'auto': ('AutoGuidance (auto)', 3),
}


def run(args: argparse.Namespace) -> None:
  """Runs `explore` until the user stops it."""
  check_address(args.host, args.port)
  if importlib.util.find_spec('gradio') is None:
    raise InputError(
      'explore needs Gradio: pip install gradio (or -r '
      'requirements-explore.txt).'
    )
  explorer = Explorer(request_of(args))
  # The sampler compiles while Gradio, whose import takes seconds, starts.
  threading.Thread(
    target=explorer.draw, args=[explorer.start], daemon=True
  ).start()
  import gradio

  page = build(gradio, explorer)
  url = serve(gradio, page, args.host, args.port, browser=args.browser)
  print(f'{url} (Ctrl-C stops the page)', flush=True)
  page.block_thread()


def check_address(host: str, port: int) -> None:
  """Raises InputError if no page can be served at the address."""
  check_value('--port', port, Annotated[int, Range(1, 65_535)])
  try:
    socket.create_server((host, port)).close()
  except OSError as error:
    raise InputError(
      f'cannot serve on --host={host} --port={port}: {error.strerror}. Choose '
      f'another port, such as --port={port % 65_535 + 1}, or an address of '
      'this machine.'
    ) from error


def serve(
  gradio: Any, page: Any, host: str, port: int, *, browser: bool = False
) -> str:
  """Serves the page from other threads, and returns its address."""
  css = importlib.resources.files(__package__) / 'page.css'
  _, url, _ = page.launch(
    server_name=host,
    server_port=port,
    inbrowser=browser,
    share=False,
    ssr_mode=False,
    mcp_server=False,
    run_history=False,
    footer_links=[],
    theme=_theme(gradio),
    css=css.read_text('utf-8'),
    quiet=True,
    prevent_thread_lock=True,
  )
  return url


def _theme(gradio: Any) -> Any:
  """Returns a theme with the system's fonts and readable gray text."""
  theme = gradio.themes.Default(
    font=('system-ui', 'sans-serif'), font_mono=('ui-monospace', 'monospace')
  )
  return theme.set(body_text_color_subdued='*neutral_500')


def build(gradio: Any, explorer: Explorer) -> Any:
  """Returns the page, a `gradio.Blocks`."""
  with gradio.Blocks(
    title=f'explore {explorer.title}', analytics_enabled=False
  ) as page:
    with gradio.Row(elem_id='explore'):
      with gradio.Column(elem_id='dials'):
        inputs = [
          *(
            part
            for dial in explorer.start.dials
            for part in _dial(gradio, dial)
          ),
          *_settings(gradio, explorer),
        ]
      with gradio.Column(elem_id='images'):
        gradio.HTML(pictures.title(explorer.title))
        status = gradio.HTML(pictures.note('Compiling the sampler.'))
        cards = gradio.HTML(elem_id='cards')
      with gradio.Column(elem_id='details'):
        outputs = [status, cards, *_details(gradio)]
        traced = gradio.Checkbox(
          label='Show the trajectory of the first image', elem_id='traced'
        )
        outputs.append(gradio.HTML(elem_id='film'))
    inputs.append(traced)
    gradio.on(
      [page.load, *map(_changed, inputs)],
      _updater(gradio, explorer),
      inputs,
      outputs,
      trigger_mode='always_last',
      show_progress_on=[status],
      api_visibility='private',
    )
  return page


def _dial(gradio: Any, dial: Dial) -> list[Any]:
  """Adds the sliders of a method: scale, low and high."""
  label, largest = _METHODS[dial.name]
  with gradio.Group():
    scale = gradio.Slider(
      1, largest, value=dial.scale, step=0.05, label=label,
      info='Scale; 1 is off', elem_id=dial.name,
    )  # fmt: skip
    with gradio.Accordion(f'Interval of {dial.name}', open=False):
      low, high = (
        gradio.Slider(
          0, 1, value=value, step=0.05, label=f'{name} time of {dial.name}',
          info='0 is the data, 1 is the noise',
          elem_id=f'{dial.name}_{name.lower()}',
        )
        for name, value in (('Lowest', dial.low), ('Highest', dial.high))
      )  # fmt: skip
  return [scale, low, high]


def _settings(gradio: Any, explorer: Explorer) -> list[Any]:
  """Adds the inputs that follow the sliders, as in `Settings.of_page`."""
  start = explorer.start
  return [
    gradio.Textbox(
      label='Guidance as text', info='Replaces the sliders above; press Enter',
      placeholder='apg:3,s2:1.25@0.1-0.9', elem_id='text', submit_btn=True,
    ),
    gradio.Slider(
      1, _STEPS, value=start.steps, step=1, label='Steps', elem_id='steps'
    ),
    gradio.Dropdown(explorer.solvers, label='Solver', elem_id='solver'),
    gradio.Number(start.seed, precision=0, label='Seed', elem_id='seed'),
    gradio.Dropdown(
      [(name, label) for label, name in enumerate(explorer.names)],
      value=list(start.classes), multiselect=True, label='Classes',
      elem_id='classes',
    ),
  ]  # fmt: skip


def _details(gradio: Any) -> list[Any]:
  """Adds the texts to copy."""
  return [
    gradio.Textbox(
      label='Guidance', buttons=['copy'], interactive=False, elem_id='guidance'
    ),
    gradio.Textbox(
      label='Command that samples the same images', buttons=['copy'],
      lines=2, max_lines=8, interactive=False, elem_id='command',
    ),
  ]  # fmt: skip


def _changed(part: Any) -> Any:
  """Returns the event of a new value; text is read when it is submitted."""
  return part.submit if part.elem_id == 'text' else part.change


def _updater(gradio: Any, explorer: Explorer) -> Callable[..., list[Any]]:
  """Returns the function from all inputs to all outputs of the page."""

  def update(*values: Any) -> list[Any]:
    *settled, traced = values
    count = 3 * len(explorer.methods)
    film = ''
    try:
      settings = Settings.of_page(
        explorer.methods, settled[:count], *settled[count:]
      )
      picture = explorer.draw(settings)
      names = [explorer.names[label] for label in settings.classes]
      if traced:
        film = pictures.film(
          explorer.film(settings), names[0], settings.guidance
        )
    except InputError as error:
      return [pictures.problem(str(error)), *[gradio.skip()] * 4]
    return [
      pictures.facts(picture),
      pictures.cards(picture, names),
      settings.guidance,
      explorer.command(settings),
      film,
    ]

  return update
