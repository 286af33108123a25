"""Processes that must not outlive their starter."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(60)
REPOSITORY = Path(__file__).parents[4]
SLEEPER = """
import subprocess, sys, time
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
print(subprocess.Popen(sleeper, start_new_session=True).pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def watched():
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer_core.watchdog", "--", sys.executable, "-c", SLEEPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_closing_stdin_ends_the_program_and_what_hides_below_it(watched, until, is_alive):
    grandchild = int(watched.stdout.readline())

    watched.stdin.close()

    # The watch's own status, or the killed program's, whichever is first.
    assert watched.wait(timeout=5) in (70, 128 + signal.SIGKILL)
    until(lambda: not is_alive(grandchild), seconds=1)


def test_sigterm_is_handed_on_and_the_rest_is_killed(watched, until, is_alive):
    grandchild = int(watched.stdout.readline())

    watched.send_signal(signal.SIGTERM)

    assert watched.wait(timeout=5) == 128 + signal.SIGTERM
    until(lambda: not is_alive(grandchild), seconds=1)


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(3)", 3), ("pass", 0)])
def test_the_programs_exit_status_is_handed_back(code, status):
    argv = [sys.executable, "-m", "trainer_core.watchdog", "--", sys.executable, "-c", code]

    with subprocess.Popen(argv, stdin=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.wait(timeout=20) == status


def test_light_modules_leave_torch_alone():
    code = (
        "import sys, trainer_core.pipeline, trainer_core.step_main, trainer_core.stage_main, trainer_core.watchdog\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'datasets', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
