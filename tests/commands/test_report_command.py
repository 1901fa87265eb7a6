"""Tests the page of the command `report`, as text and in a browser."""

import html.parser
import itertools
import re
import shutil
import subprocess

import numpy as np
import pytest
from command_runs import (
  COMPARE,
  ROOT,
  TINY,
  change_json,
  printed,
  refusal,
  succeed,
)
from PIL import Image

from commands import cli
from commands.compare import compare_settings
from commands.sample_job import SampleJob, request_of

SECTIONS = (
  'run', 'losses', 'throughput', 'scores', 'previews', 'guidance', 'sweeps',
  'evaluations', 'samples', 'trajectories', 'config',
)  # fmt: skip
PICTURES = 54  # number of pictures on the whole page
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')


class Parts(html.parser.HTMLParser):
  def __init__(self, text):
    super().__init__()
    self.pictures, self.text, self.cells = {}, {}, {}
    self.loaded, self._section, self._cell = [], None, False
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    attributes = dict(attributes)
    self.loaded += [attributes[a] for a in ('src', 'href') if a in attributes]
    if tag == 'h2':
      self._section = attributes['id']
      for found in (self.pictures, self.text, self.cells):
        found[self._section] = []
    if tag == 'img':
      self.pictures[self._section].append(attributes['alt'])
    self._cell = tag in ('td', 'th')

  def handle_data(self, data):
    if self._section is not None:
      self.text[self._section].append(data)
      if self._cell:
        self.cells[self._section].append(data)


@pytest.fixture(scope='module')
def whole(shared_run, features, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('report') / 'a & <b>run</b>'
  shutil.copytree(shared_run / 'run', workdir)
  on = (f'--workdir={workdir}', features, '--config.sample.steps=2')
  for words, titles in (
    (('compare', *on, *COMPARE, '--num=20'), ['none: 20', 'ig:1.5: 20']),
    (('sweep', *on, '--guidance=ig:1..2:2,cfg:1..2:2', '--num=20'),
     ['reference, classifier of digits: 1297', 'sweep: 80']),
    (('evaluate', *on, '--guidance=ig:1.5', '--num=20'), ['evaluate: 20']),
    (('report', f'--workdir={workdir}'), ['samples, ig:1.5: 100', 'films: 4']),
  ):  # fmt: skip
    result = succeed(*words)
    for title in titles:
      assert f'{title} images; compiling first if' in result.err
  assert str(workdir / 'report.html') in result.out
  return workdir


def test_page_has_every_part(whole):
  found = Parts((whole / 'report.html').read_text())
  assert tuple(found.text) == SECTIONS
  count = {name: len(found.pictures[name]) for name in SECTIONS}
  # Numbers of pictures per section. Guidance has a chart, and six rows: real
  # images, three methods, and two changes. The trajectories are, for each of
  # two images, five rows (IG) and seven rows (IG + CFG) with an animation each,
  # and one plot of prediction gaps.
  assert count == {
    'run': 0, 'losses': 3, 'throughput': 2, 'scores': 0, 'previews': 2,
    'guidance': 7, 'sweeps': 1, 'evaluations': 0, 'samples': 10,
    'trajectories': 2 * (6 + 8) + 1, 'config': 0,
  }  # fmt: skip
  run_text = ' '.join(found.text['run'])
  assert '30 of 30 steps' in run_text and '20, 30' in run_text
  assert found.pictures['previews'] == ['step 15, 240 images',
                                        'step 30, 480 images']  # fmt: skip
  scores = {'IG + CFG', '1.5, 1.2', 'real, held out'}
  assert scores <= {*found.cells['guidance']}
  assert {'ig', 'cfg', 'fd', '1', '2'} <= {*found.cells['sweeps']}
  assert 'ig:1.5' in found.cells['evaluations']
  assert 'ig:1.5,cfg:1.2' in ' '.join(found.text['trajectories'])
  assert 'model.width' in found.cells['config']
  assert 'not measured' in ' '.join(found.text['scores']).lower()


def test_page_needs_nothing_else(whole):
  text = (whole / 'report.html').read_text()
  found = Parts(text)
  assert all(where.startswith(('data:image/', '#')) for where in found.loaded)
  links = {where[1:] for where in found.loaded if where.startswith('#')}
  assert links == set(SECTIONS)
  assert '<script' not in text and '<b>run' not in text  # Names are escaped.


def browse(path, *words):
  browser = next(filter(None, map(shutil.which, BROWSERS)), None)
  if browser is None:
    pytest.skip(f'no browser here: none of {", ".join(BROWSERS)}')
  done = subprocess.run(
    [browser, '--headless', '--no-sandbox', '--disable-gpu',
     '--hide-scrollbars', '--enable-logging=stderr', *words, f'file://{path}'],
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return done.stdout, [li for li in done.stderr.splitlines() if 'CONSOLE' in li]


def test_page_in_a_browser(whole, tmp_path):
  path = tmp_path / 'report.html'  # Only this file is copied.
  shutil.copy(whole / 'report.html', path)
  shot = tmp_path / 'page.png'
  _, complaints = browse(
    path, '--window-size=1200,6000', f'--screenshot={shot}'
  )
  assert not complaints
  picture = np.asarray(Image.open(shot).convert('L'))
  assert picture.shape == (6000, 1200)
  # The upper 4,000 pixels of the page have no blank part.
  drawn = (picture.reshape(30, 200, 1200) < 200).any((1, 2))
  assert drawn[:20].all()

  probe = tmp_path / 'probe.html'
  script = (
    '<script>document.body.textContent = JSON.stringify({'
    'sections: [...document.querySelectorAll("section")]'
    '.map(s => s.getBoundingClientRect().height > 20),'
    'pictures: [...document.images].map(i => i.naturalWidth > 100),'
    'tables: [...document.querySelectorAll(".wide")]'
    '.every(e => e.scrollWidth <= e.clientWidth),'
    'wide: document.documentElement.scrollWidth})</script>'
  )
  text = path.read_text().replace("default-src 'none'; img-src data:;", '')
  text = text.replace("style-src 'unsafe-inline'", '')
  probe.write_text(text.replace('</body>', f'{script}</body>'))
  shown, complaints = browse(probe, '--window-size=1200,900', '--dump-dom')
  assert not complaints
  assert f'"sections":[{",".join(["true"] * len(SECTIONS))}]' in shown
  assert f'"pictures":[{",".join(["true"] * PICTURES)}]' in shown
  assert '"tables":true,"wide":1200' in shown  # The page fits the window.


def test_browser_would_complain(tmp_path):
  """The browser must report the errors of a broken page."""
  page = tmp_path / 'bad.html'
  page.write_text(
    '<!doctype html><meta http-equiv="Content-Security-Policy" '
    'content="default-src \'none\'"><img src="http://127.0.0.1:9/x.png">'
  )
  assert browse(page, '--dump-dom')[1]


def report(workdir, out, *words):
  result = succeed('report', f'--workdir={workdir}', f'--out={out}', *words)
  return result, Parts((out / 'report.html').read_text())


def refuse(workdir, out, *words):
  """Checks that `report` writes no page, and returns the stderr of `report`."""
  said = refusal('report', f'--workdir={workdir}', f'--out={out}', *words)
  assert not (out / 'report.html').exists()
  return said


@pytest.mark.slow
def test_methods_to_draw_with(shared_run, tmp_path):
  _, found = report(
    shared_run / 'run', tmp_path, '--guidance=s2:1.5', '--guidance=none'
  )
  assert 's2:1.5' in ' '.join(found.text['samples'])
  assert len(found.pictures['trajectories']) == 2 * 6 + 1
  assert 'ig:1.5' not in ' '.join(found.text['trajectories'])


def test_without_weights(shared_run, tmp_path):
  _, found = report(shared_run / 'run', tmp_path, '--no_draw')
  assert not found.pictures['samples'] and not found.pictures['trajectories']
  assert '--no_draw' in ' '.join(found.text['samples'])
  assert len(found.pictures['losses']) == 3
  # Without a checkpoint there is no network to sample.
  bare = tmp_path / 'bare'
  bare.mkdir()
  shutil.copy(shared_run / 'run' / 'config.json', bare)
  result, found = report(bare, tmp_path)
  assert 'no checkpoint' in result.err
  assert 'no checkpoint' in ' '.join(found.text['samples'])
  assert not any(found.pictures.values())


@pytest.mark.parametrize(('words', 'message'), [
  (('--guidance=igg:1.5',), "Did you mean 'ig'"),
  (('--guidance=auto:2',), '--guide'),
  (('--step=7',), 'no checkpoint of step 7'),
  (('--config.model.width=3',), 'belongs to the run'),
  (('--no_draw', '--guidance=ig:1.5'), 'leave them out, or --no_draw'),
  (('--no_draw', '--step=30'), 'leave them out, or --no_draw'),
])  # fmt: skip
def test_what_cannot_be_drawn_leaves_no_page(
  shared_run, tmp_path, words, message
):
  assert message in refuse(shared_run / 'run', tmp_path, *words)


# Per file: damaged contents, page section, limit on pictures in the section.
DAMAGES = {
  'compare.json': (('', '{"damaged": ', '{"a": 1}', '[1]'), 'guidance', 6),
  'table.md': (('',), 'guidance', 7),
  'compare.npz': (('', 'none'), 'guidance', 1),
  'sweep/sweep.json': (('{"damaged": ',), 'sweeps', 0),
  'sweep/sweep.csv': ((None, ''), 'sweeps', 0),
  'run.json': (('{', '[1]', '{"command": null}'), 'run', 0),
  'previews/00000015.png': (('', 'none'), 'previews', 1),
  'evaluation/ig-1.5/evaluation.md': (('', '| a |\n'), 'evaluations', 0),
}


def test_damaged_files_are_left_out(whole, tmp_path):
  workdir = tmp_path / 'run'
  for texts in itertools.zip_longest(*(each[0] for each in DAMAGES.values())):
    shutil.copytree(whole, workdir, dirs_exist_ok=True)
    damages = dict(zip(DAMAGES, texts, strict=True))
    damages = {name: text for name, text in damages.items() if text is not None}
    for name, text in damages.items():
      (workdir / name).write_text(text)
    result, found = report(workdir, workdir, '--no_draw')
    assert tuple(found.text) == SECTIONS
    for name in damages:
      _, section, pictures = DAMAGES[name]
      said = f'{name} is damaged'
      assert said in result.err and said in ' '.join(found.text[section])
      assert len(found.pictures[section]) <= pictures
    assert len(found.pictures['losses']) == 3
    assert '30 of 30 steps' in ' '.join(found.text['run'])


def test_picture_cut_off(whole, tmp_path):
  workdir = shutil.copytree(whole, tmp_path / 'run')
  path = workdir / 'sweep' / 'sweep.png'
  path.write_bytes(path.read_bytes()[:2000])
  result, found = report(workdir, workdir, '--no_draw')
  assert 'sweep.png is damaged' in result.err
  assert 'fd' in found.cells['sweeps'] and not found.pictures['sweeps']


def test_lines_that_are_none(shared_run, tmp_path):
  workdir = shutil.copytree(shared_run / 'run', tmp_path / 'run')
  with (workdir / 'metrics.jsonl').open('a') as file:
    file.write('5\n{"loss": 1}\n{"step": 31}\n{"st\n')
  result, found = report(workdir, workdir, '--no_draw')
  assert len(found.pictures['losses']) == 3
  assert result.err.count('left out a damaged line') == 3


@pytest.mark.parametrize('name', ['metrics.jsonl', 'checkpoints'])
def test_files_of_another_kind(shared_run, tmp_path, name):
  workdir = tmp_path / 'run'
  workdir.mkdir()
  shutil.copy(shared_run / 'run' / 'config.json', workdir)
  (workdir / name).mkdir() if '.' in name else (workdir / name).touch()
  assert name in refuse(workdir, workdir, '--step=30')


@pytest.mark.slow
def test_printed_commands_work(shared_run, features, tmp_path):
  workdir = shutil.copytree(shared_run / 'run', tmp_path / "it's a run")
  _, found = report(workdir, workdir, '--no_draw')
  commands = printed((workdir / 'report.html').read_text())
  assert [words[0] for words in commands] == ['compare', 'sweep', 'evaluate']
  for command, *words in commands:
    words += ['--config.sample.steps=1', '--num=20', features]
    if command == 'compare':
      words += ['--bootstrap=5']
    succeed(command, *words)
  _, found = report(workdir, workdir, '--no_draw')
  assert not printed((workdir / 'report.html').read_text())
  assert all(found.cells[name] for name in ('guidance', 'sweeps'))


@pytest.mark.slow
def test_commands_of_the_demo_work(shared_run, features, tmp_path):
  """Runs the commands that `make demo` prints, with fewer images."""
  text = (ROOT / 'Makefile').read_text()
  lines = re.findall(r"@echo '  \$\(BIN\)/python main\.py ([^']*)'", text)
  assert [line.split()[0] for line in lines] == [
    'sample', 'explore', 'train', 'compare',
  ]  # fmt: skip
  explore = lines.pop(1).partition('   (')[0]  # it would serve until stopped
  assert cli.parse_args(explore.split(), '').workdir == '$(DEMO)'
  (methods,) = re.findall(r'METHODS := (.*)', text)
  few = {
    'sample': ['--num=4'],
    'train': [
      f'--config.{key}={value}'
      for key, value in TINY.items() | {('data.dir', f'{shared_run}/data')}
    ],
    'compare': ['--num=20', '--bootstrap=5', features],
  }
  for line in lines:
    line = line.partition('   (')[0].replace('$(DEMO)', f'{shared_run}/run')
    line = line.replace('$(METHODS)', methods)
    command, *words = line.replace('runs/long', f'{tmp_path}/long').split()
    words += [f'--out={tmp_path}/samples'] * (command == 'sample')
    succeed(command, *words, *few[command])


def test_advice_is_what_can_be_done(shared_run, tmp_path):
  """The page suggests IG only if the network has taps."""
  workdir = shutil.copytree(shared_run / 'run', tmp_path / 'run')
  _, found = report(workdir, tmp_path, '--no_draw')
  assert 'compare --workdir' in ' '.join(found.text['guidance'])
  assert 'ig:1.0..2.0:6,cfg' in ' '.join(found.text['sweeps'])
  change_json(workdir / 'config.json', lambda c: c['model'].update(taps=[]))
  _, found = report(workdir, tmp_path, '--no_draw')
  assert 'guidance=cfg:1.0..2.0:6' in ' '.join(found.text['sweeps'])
  assert 'compare --workdir' in ' '.join(found.text['guidance'])
  args = cli.parse_args(['compare', f'--workdir={workdir}'], '')
  settings = compare_settings(args, SampleJob(request_of(args)))
  assert settings.methods == ('none', 'cfg:1.35', 'cfg:1.35,s2:1.25')


@pytest.mark.slow
def test_page_at_all_widths(whole):
  """No errors, requests, cut parts or serious accessibility violations."""
  needed = 'needs playwright and axe-playwright-python'
  driver = pytest.importorskip('playwright.sync_api', reason=needed)
  axe = pytest.importorskip(
    'axe_playwright_python.sync_playwright', reason=needed
  )
  browser = next(filter(None, map(shutil.which, BROWSERS)), None)
  if browser is None:
    pytest.skip(f'no browser here: none of {", ".join(BROWSERS)}')
  with driver.sync_playwright() as play:
    chrome = play.chromium.launch(
      executable_path=browser, args=['--no-sandbox']
    )
    for width, scheme in itertools.product((1280, 760, 420), ('light', 'dark')):
      tab = chrome.new_page(
        viewport={'width': width, 'height': 900}, color_scheme=scheme
      )
      errors, requests = [], []
      tab.on('console', lambda m, e=errors: m.type == 'error' and e.append(m))
      tab.on('request', lambda r, e=requests: e.append(r.url))
      tab.goto(f'file://{whole}/report.html')
      assert not errors
      outside = [url for url in requests if not url.startswith('data:')]
      assert len(outside) == 1  # the page itself
      assert tab.evaluate('document.documentElement.scrollWidth') == width
      if width < 500:
        assert tab.evaluate(
          '[...document.querySelectorAll(".wide")]'
          '.every(e => e.scrollWidth <= e.clientWidth)'
        )
      color = 'getComputedStyle(document.body).backgroundColor'
      is_dark = tab.evaluate(color) != 'rgb(255, 255, 255)'
      assert is_dark == (scheme == 'dark')
      violations = axe.Axe().run(tab).response['violations']
      assert not [
        found['id']
        for found in violations
        if found['impact'] in ('serious', 'critical')
      ]
      tab.close()
    chrome.close()
