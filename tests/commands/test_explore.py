"""Tests the command `explore`: its sampler, and its page in a browser."""

import base64
import importlib.util
import io
import json
import re
import shlex
import shutil
import socket
import sys
import time

import numpy as np
import pytest
from command_runs import free_port, refused_line, started, succeed
from PIL import Image

from commands.explore.explorer import METHODS, Explorer
from commands.explore.pictures import cards, film
from commands.explore.settings import Dial, Settings
from commands.sample_job import SampleRequest
from core.errors import InputError
from sample import sampler
from sample.pictures import enlarge
from train.runs import Source

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
CLASSES = (3, 8, 1, 0, 4, 5, 6, 7)


@pytest.fixture(scope='module')
def explorer(shared_run):
  return Explorer(SampleRequest(Source.at(f'{shared_run}/run')))


def settings(*dials, **changes):
  values = {
    'text': '', 'steps': 3, 'solver': 'euler', 'seed': 5, 'classes': CLASSES,
  }  # fmt: skip
  return Settings(dials, **{**values, **changes})


def dials(ig=1.0, cfg=1.0, s2=1.0, low=0.2, high=1.0):
  return Dial('ig', ig), Dial('cfg', cfg, low, high), Dial('s2', s2)


def test_text_leaves_out_methods_that_are_off():
  assert settings(*dials()).guidance == 'none'
  assert settings(*dials(1.5, 2)).guidance == 'ig:1.5,cfg:2@0.2-1'
  assert settings(*dials(1.5, 2)).program == 'ig:1.5,cfg:2@0.2-1,s2:1'
  assert settings(*dials(1.5), text='apg:3').guidance == 'apg:3'


def test_an_empty_interval_matters_only_if_the_method_is_on():
  assert settings(*dials(1.5, low=0.7, high=0.3)).guidance == 'ig:1.5'
  with pytest.raises(InputError, match=r'interval of cfg .* 0\.7 .* 0\.3'):
    _ = settings(*dials(1.5, 2, low=0.7, high=0.3)).guidance


def test_inputs_of_the_page():
  values = [1.5, 0, 1, 2, 0.25, 1]
  state = Settings.of_page(
    ['ig', 'cfg'], values, ' ', 10.0, 'heun', 3.0, [1, 2]
  )
  assert state.guidance == 'ig:1.5,cfg:2@0.25-1'
  assert (state.steps, state.seed, state.classes) == (10, 3, (1, 2))
  for seed, classes, words in ((None, [1], 'a seed'), (0, [], 'one class')):
    with pytest.raises(InputError, match=words):
      Settings.of_page([], [], '', 10, 'euler', seed, classes)


def test_what_the_network_supports(explorer):
  assert explorer.methods == ('ig', 'cfg', 's2')
  assert 'heun' in explorer.solvers
  # dopri5 has no fixed steps, and ddpm needs a learned variance.
  assert not {'dopri5', 'ddpm'} & set(explorer.solvers)
  assert explorer.start.guidance == 'ig:1.5'
  assert explorer.start.steps == 3


@pytest.mark.parametrize('guidance', [(1.5, 2), (1.0, 1.0, 2.0)])
def test_the_command_samples_the_images_of_the_page(
  explorer, tmp_path, guidance
):
  state = settings(*dials(*guidance))
  picture = explorer.draw(state)
  words = shlex.split(explorer.command(state))
  succeed(*words[words.index('sample') :], f'--out={tmp_path}')
  images = np.stack(
    [np.asarray(Image.open(p)) for p in sorted(tmp_path.glob('images/*.png'))]
  )
  assert len(images) == len(CLASSES)
  assert np.abs(picture.images[..., 0] - images.astype(int)).max() <= 1
  info = json.loads((tmp_path / 'samples.json').read_text())
  assert picture.nfe == pytest.approx(info['nfe_per_image'], rel=1e-5)
  assert info['guidance'] == state.guidance


def test_a_slider_changes_the_images_and_compiles_nothing(explorer):
  first = explorer.draw(settings(*dials(1.5, 2)))
  count = sampler.sample._cache_size()
  second = explorer.draw(settings(*dials(3, 2)))
  third = explorer.draw(settings(*dials(3, 2, low=0.5, high=0.9)))
  off = explorer.draw(settings(*dials()))
  assert sampler.sample._cache_size() == count
  assert (first.images != second.images).any()
  assert (second.images != third.images).any()
  np.testing.assert_array_equal(first.base, second.base)
  np.testing.assert_array_equal(off.images, off.base)
  assert off.nfe == 3


def test_the_pictures_are_labeled(explorer):
  state = settings(*dials(1.5), classes=(3, 8))
  text = cards(explorer.draw(state), ['<b>three</b>', 'eight'])
  assert text.count('<figure>') == 2 and '&lt;b&gt;three' in text
  assert 'change x 2 (gray: none)' in text and 'bicubic filter' in text
  record = explorer.film(state)
  assert record.images['guided'].shape[:2] == (3, 1)
  text = film(record, 'three', state.guidance)
  assert 'guided estimate at time 1.00' in text and 'with ig:1.5' in text


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'text': 'igg:2'}, "Did you mean 'ig'"),
    ({'text': 'auto:2'}, '--guide'),
    ({'steps': 0}, 'steps'),
    ({'seed': -1}, 'seed'),
  ],
)
def test_what_is_refused(explorer, changes, words):
  with pytest.raises(InputError, match=words):
    explorer.draw(settings(*dials(), **changes))


def test_a_folder_with_a_guide_and_other_settings(
  weights_folder, shared_run, tmp_path
):
  request = SampleRequest(
    Source.at(str(weights_folder)), ['sample.steps=7', 'sample.shift=2'],
    Source.at(f'{shared_run}/run', step=20), out=f'{tmp_path}/mine',
  )  # fmt: skip
  explorer = Explorer(request)
  assert explorer.methods == METHODS
  assert explorer.start.steps == 7
  for guidance in ('ig:1.5', 'auto:1.5'):
    state = settings(text=guidance)
    picture = explorer.draw(state)
    words = shlex.split(explorer.command(state))
    # sample refuses a guide that it does not use.
    assert ('--guide_step=20' in words) == (guidance == 'auto:1.5')
    succeed(*words[words.index('sample') :])
    images = np.asarray(Image.open(tmp_path / 'mine/images/000002.png'))
    assert np.abs(picture.images[2, ..., 0] - images.astype(int)).max() <= 1


def test_a_respaced_schedule_follows_the_steps(shared_run):
  request = SampleRequest(
    Source.at(f'{shared_run}/run'), ['sample.respacing=20']
  )
  explorer = Explorer(request)
  state = settings(*dials(), steps=4)
  assert explorer.start.steps == 20
  assert explorer.draw(state).nfe == 4
  assert '--config.sample.respacing=4' in shlex.split(explorer.command(state))


def test_a_port_in_use_is_said_before_the_work():
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]
    line = refused_line('explore', '--workdir=nowhere', f'--port={port}')
  assert f'--port={port}: Address already in use' in line


def test_without_gradio_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  line = refused_line('explore', '--workdir=nowhere', f'--port={free_port()}')
  assert 'pip install gradio' in line


def wait_for(port, process):
  """Waits until a process accepts connections."""
  deadline = time.monotonic() + 300
  while process.poll() is None and time.monotonic() < deadline:
    with socket.socket() as sock:
      if sock.connect_ex(('127.0.0.1', port)) == 0:
        return
    time.sleep(0.2)
  pytest.fail('the page is not served')


@pytest.fixture(scope='module')
def tab(shared_run, tmp_path_factory):
  """A browser tab with the page, which records what it loads and reports."""
  if importlib.util.find_spec('gradio') is None:
    pytest.skip('gradio is not installed')
  playwright = pytest.importorskip('playwright.sync_api')
  if CHROMIUM is None:
    pytest.skip('Chromium is not installed')
  folder, port = tmp_path_factory.mktemp('page'), free_port()
  words = [
    'explore', f'--workdir={shared_run}/run', f'--port={port}',
    f'--out={folder}/explored',
  ]  # fmt: skip
  with (
    started(words, folder / 'log') as process,
    playwright.sync_playwright() as driver,
    driver.chromium.launch(
      executable_path=CHROMIUM, args=['--no-sandbox']
    ) as browser,
  ):
    tab = browser.new_page()
    tab.set_default_timeout(300_000)
    tab.errors, tab.addresses = [], []
    tab.on('pageerror', lambda error: tab.errors.append(str(error)))
    tab.on('console', lambda m: m.type == 'error' and tab.errors.append(m.text))
    tab.on('request', lambda request: tab.addresses.append(request.url))
    wait_for(port, process)
    tab.goto(f'http://127.0.0.1:{port}')
    tab.wait_for_selector('#cards img.guided')
    yield tab


def guided(tab):
  """Returns the guided images of the page, (n, H, W) uint8."""
  images = tab.locator('#cards img.guided').evaluate_all(
    'images => images.map(image => image.src)'
  )
  return np.stack(
    [
      np.asarray(Image.open(io.BytesIO(base64.b64decode(s.split(',')[1]))))
      for s in images
    ]
  )[..., 0]


def press(tab, slider, key):
  """Moves a slider by one step, and waits until the page has changed."""
  before = tab.input_value('#command textarea')
  tab.locator(f'#{slider} input[type=range]').press(key)
  tab.wait_for_function(
    "old => document.querySelector('#command textarea').value != old",
    arg=before,
  )


@pytest.mark.slow
def test_a_slider_moves_and_the_command_repeats_the_images(tab):
  assert tab.input_value('#guidance textarea') == 'ig:1.5'
  before = guided(tab)
  press(tab, 'cfg', 'End')
  assert tab.input_value('#guidance textarea') == 'ig:1.5,cfg:6'
  after = guided(tab)
  assert before.shape == after.shape and (before != after).any()
  assert tab.inner_text('#images .facts').startswith('NFE 6 per image')
  words = shlex.split(tab.input_value('#command textarea'))
  assert words[:3] == ['python', 'main.py', 'sample']
  succeed(*words[2:])
  (folder,) = (w.partition('=')[2] for w in words if w.startswith('--out='))
  for k, image in enumerate(after):
    expected = np.asarray(Image.open(f'{folder}/images/{k:06}.png'))
    expected = enlarge(expected[None, ..., None], len(image))[0, ..., 0]
    assert np.abs(expected.astype(int) - image).max() <= 2


@pytest.mark.slow
def test_an_empty_interval_is_explained(tab):
  tab.get_by_role('button', name='Interval of ig').click()
  before = guided(tab)
  tab.locator('#ig_highest input[type=range]').press('Home')
  tab.wait_for_selector('.problem')
  assert 'interval of ig is empty' in tab.inner_text('.problem')
  np.testing.assert_array_equal(guided(tab), before)
  tab.locator('#ig_highest input[type=range]').press('End')
  tab.wait_for_selector('.facts')


@pytest.mark.slow
def test_the_trajectory_is_shown_on_request(tab):
  assert not tab.locator('#film img').count()
  tab.check('#traced input')
  tab.wait_for_selector('#film img')
  assert tab.locator('#film img').count() == 9


@pytest.mark.slow
def test_the_page_is_accessible(tab):
  axe = pytest.importorskip('axe_playwright_python.sync_playwright')
  for scheme in ('light', 'dark'):
    tab.emulate_media(color_scheme=scheme)
    tab.wait_for_timeout(500)  # colors change gradually
    found = axe.Axe().run(tab).response['violations']
    assert not [v for v in found if v['impact'] in ('serious', 'critical')]


@pytest.mark.slow
def test_nothing_leaves_the_machine_and_nothing_fails(tab):
  assert not tab.errors
  assert len(tab.addresses) > 10
  assert not [
    address
    for address in tab.addresses
    if not re.match(r'http://127\.0\.0\.1:|data:|blob:', address)
  ]
