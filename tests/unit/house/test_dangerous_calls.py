"""No shell, no evaluated text, no pickle: in no program of ours, and in no script that we ship."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = ("app", "worker", "trainer_core", "migrations", "client/src", "examples", "bench", "docs")
FORBIDDEN = {
    "os.system": "a shell",
    "os.popen": "a shell",
    "subprocess.getoutput": "a shell",
    "subprocess.getstatusoutput": "a shell",
    "asyncio.create_subprocess_shell": "a shell",
    "eval": "evaluates text",
    "exec": "evaluates text",
    "pickle.load": "runs what it reads",
    "pickle.loads": "runs what it reads",
    "cloudpickle.load": "runs what it reads",
    "cloudpickle.loads": "runs what it reads",
    "marshal.loads": "runs what it reads",
    "shelve.open": "runs what it reads",
    "joblib.load": "runs what it reads",
    "yaml.load": "runs what it reads; yaml.safe_load does not",
    "yaml.unsafe_load": "runs what it reads",
    "tempfile.mktemp": "a name that somebody else may take",
}
PIPES_OF_OUR_OWN = {"trainer_core/tokenized/encoding_main.py", "trainer_core/tokenized/encoding_process.py"}
"""Pickles that a process and the children that it started itself send each other, as multiprocessing does: who writes
them runs with the same rights already."""


def find_faults(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {keyword.arg: keyword.value for keyword in node.keywords}
        shell = options.get("shell")
        if name in FORBIDDEN:
            yield node.lineno, f"{name}: {FORBIDDEN[name]}"
        elif shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            yield node.lineno, f"{name}(shell=…)"
        elif name in ("torch.load", "np.load", "numpy.load"):
            safe = options.get("weights_only" if name == "torch.load" else "allow_pickle")
            if not (isinstance(safe, ast.Constant) and safe.value is (name == "torch.load")):
                yield node.lineno, f"{name} without weights_only=True (allow_pickle=False)"


def test_no_program_of_ours_opens_a_shell_evaluates_text_or_reads_pickles() -> None:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 300
    faults = [
        f"{path.relative_to(ROOT)}:{line} {what}"
        for path in paths
        for line, what in find_faults(path.read_text())
        if not (what.startswith("pickle.load") and str(path.relative_to(ROOT)) in PIPES_OF_OUR_OWN)
    ]
    assert faults == []


@pytest.mark.parametrize(
    "line",
    [
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=wanted)",
        "os.system('ls')",
        "eval(text)",
        "pickle.loads(data)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, Loader=yaml.Loader)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_look_finds_what_it_is_for(line: str) -> None:
    assert len(list(find_faults(line))) == 1


def test_models_are_loaded_from_safetensors_alone() -> None:
    text = (ROOT / "trainer_core/models/loading.py").read_text() + (
        ROOT / "trainer_core/quantizers/loading.py"
    ).read_text()
    assert text.count('"use_safetensors": True') == 2
