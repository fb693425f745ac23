"""How long OpenMP's idle threads spin: set by importing icnet, where the user has set nothing."""

import os
import subprocess
import sys

import pytest

VARIABLES = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")


def run(program: str, **settings: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES} | settings
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True, timeout=120
    )


PRINT = f"import icnet, os; print([os.environ.get(key) for key in {VARIABLES}])"


def test_importing_icnet_sets_it_for_both_kinds_of_openmp():
    assert run(PRINT).stdout == "['15000', '1', None]\n"


@pytest.mark.parametrize("key", VARIABLES)
def test_whatever_the_user_has_set_stays_alone(key):
    expected = ["7" if name == key else None for name in VARIABLES]
    assert run(PRINT, **{key: "7"}).stdout == f"{expected}\n"


def test_torch_reads_it_when_icnet_is_imported_first():
    program = "import icnet, torch; print(torch.__config__.parallel_info())"
    done = run(program, OMP_DISPLAY_ENV="verbose")
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch does not use GNU's OpenMP")
    assert "GOMP_SPINCOUNT = '15000'" in done.stderr
