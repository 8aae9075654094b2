"""Imports only go down, Ray is in two folders, and what must start fast is light."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
FLOORS = (
    {"text", "malloc_tuning"},
    {"errors"},
    {"config"},
    {"experiment", "run_options", "storage"},
    {"experiment_settings", "experiment_files", "tuning"},
    {"data", "models", "results"},
    {"early_stopping", "training", "report", "verify", "progress", "provenance"},
    {"local", "cluster", "prediction", "external_evaluation", "export", "diagnostics"},
    {"runner"},
    {"api"},
    {"cli"},
)
ALLOWED_ON_ONE_FLOOR = {("verify", "report"), ("diagnostics", "cluster")}
"""The first of each pair may import the second, but not the other way round."""

QUESTIONS = [
    path for path in (PROJECT / "experiments").glob("*.py") if "\nEXPERIMENT = " in path.read_text()
]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def area(module: str) -> str:
    """Return `models` for bioimg.models.classifier."""
    return module.split(".")[1]


def floor(name: str) -> int:
    return next(number for number, areas in enumerate(FLOORS) if name in areas)


FILES = [
    path
    for path in (PROJECT / "bioimg").rglob("*.py")
    if path.parent.name != "bioimg" or path.stem != "__init__"
]


PROGRAMS = [*FILES, *(PROJECT / "experiments").rglob("*.py")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_imports_only_go_down(path):
    own = path.relative_to(PROJECT / "bioimg").parts[0].removesuffix(".py")
    for module in imports(path):
        if not module.startswith("bioimg.") or area(module) == own:
            continue
        is_below = floor(area(module)) < floor(own)
        assert is_below or (own, area(module)) in ALLOWED_ON_ONE_FLOOR, f"{own} imports {module}"


def test_ray_is_imported_in_two_folders_only():
    folders = {
        path.relative_to(PROJECT).parts[1]
        for path in FILES
        if any(name.split(".")[0] == "ray" for name in imports(path))
    }
    assert folders == {"cluster", "diagnostics"}


RUNS = (
    "eval",
    "exec",
    "compile",
    "pd.eval",
    "pd.read_pickle",
    "joblib.load",
    "yaml.load",
    "os.system",
    "os.popen",
)
RUNS_OF = {
    **{
        module: {"load", "loads", "Unpickler", "open"}
        for module in ("pickle", "cloudpickle", "dill", "marshal", "shelve")
    },
    **{"subprocess": {"getoutput", "getstatusoutput"}, "asyncio": {"create_subprocess_shell"}},
}
ONLY_WITH = {"torch.load": "weights_only=True", "np.lib.format.read_array": "allow_pickle=False"}
NEVER_WITH = {"shell=True", "allow_pickle=True", "weights_only=False", "autoescape=False"}


def runs_what_it_is_given(call: ast.Call) -> bool:
    """Whether a call could run code from a file or a text: unpickling, a shell, evaluation."""
    name, given = ast.unparse(call.func), {ast.unparse(word) for word in call.keywords}
    module, _, function = name.rpartition(".")
    return (
        name in RUNS
        or function in RUNS_OF.get(module, ())
        or ONLY_WITH.get(name, "nothing") not in {*given, "nothing"}
        or not given.isdisjoint(NEVER_WITH)
    )


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_nothing_that_lies_in_a_file_is_run(path):
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert not [ast.unparse(call) for call in calls if runs_what_it_is_given(call)]


@pytest.mark.parametrize(
    "code",
    [
        *(
            "torch.load(path)",
            "torch.load(path, weights_only=False)",
            "pickle.loads(content)",
            "joblib.load(path)",
        ),
        *(
            "np.load(path, allow_pickle=True)",
            "np.lib.format.read_array(file)",
            "eval(text)",
            "exec(text)",
        ),
        *(
            "subprocess.run(command, shell=True)",
            "os.system(command)",
            "subprocess.getoutput(command)",
        ),
    ],
)
def test_a_call_that_could_run_what_lies_in_a_file_is_seen(code):
    (call,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert runs_what_it_is_given(call)


def test_no_template_lets_markup_through():
    assert not [
        path
        for path in (PROJECT / "bioimg").rglob("*.html")
        if re.search(r"\|\s*safe\b|autoescape", path.read_text())
    ]


@pytest.mark.parametrize("path", QUESTIONS, ids=lambda path: path.stem)
def test_an_experiment_only_states_its_question(path):
    assert {module.rsplit(".", 1)[0] for module in imports(path)} <= {
        "bioimg.config",
        "bioimg.experiment",
    }


HEAVY = {"ray", "torch", "torchvision", "sklearn", "scipy", "pandas", "matplotlib", "jinja2"}
"""Packages that take a tenth of a second or more to import."""
ALLOWED_HEAVY = {
    "bioimg": set(),
    "bioimg.cli.main": set(),
    "bioimg.cli.report": set(),
    "bioimg.data": set(),
    # Ray starts before a run imports torch
    "bioimg.runner": {"pandas"},
    "bioimg.cluster.open_lanes": {"ray"},
    "bioimg.training.checkpoint_pruning": {"pandas"},
    "bioimg.cluster.tune_runner": {"ray", "pandas"},
    # Ray Tune and Ray Train import pandas
    "bioimg.cluster.tune_trial": {"ray", "pandas"},
    "bioimg.cluster.lanes": {"ray", "pandas"},
    "bioimg.cluster.lane_worker": {"ray", "pandas", "torch", "torchvision"},
    "bioimg.local": {"pandas", "torch", "torchvision"},
}
"""What may be imported by commands, a Tune trial, a lane's controller and worker, and --local."""


@pytest.mark.ray
@pytest.mark.parametrize("module", ALLOWED_HEAVY)
def test_what_must_start_fast_imports_only_what_it_needs(module):
    command = f"import {module}, sys; print(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert HEAVY.intersection(shown.stdout.split()) <= ALLOWED_HEAVY[module]


def test_the_first_lines_of_a_project_are_as_its_user_fixed_them():
    held = {path.name for path in PROJECT.iterdir() if not path.name.startswith(".")}
    fixed = {
        "pyproject.toml",
        "cluster.yaml",
        "experiments",
        "bioimg",
        "tests",
        "README.md",
        "LICENSE",
    }
    assert (
        held - {"results", "build"} - {name for name in held if name.endswith(".egg-info")} <= fixed
    )


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "tests").rglob("*.py")), ids=lambda path: path.stem
)
def test_no_test_imports_another_test(path):
    """What tests share lies in `support`."""
    imported = [part for name in imports(path) for part in name.split(".")]
    assert not [part for part in imported if part.startswith("test_") or part == "conftest"]
