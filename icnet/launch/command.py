"""From the command line to ``main(config)``: composing the configuration, ending with one clear line on bad input."""

import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from icnet.launch import job, messages, run_folder, shared_folder, sweep
from icnet.launch.help import show_help
from icnet.launch.overrides import readable
from icnet.launch.tidying import tidied_up
from icnet.run.failure import write_failure

Config = TypeVar("Config")


def script(
    name: str, schema: type[Config], program: str = ""
) -> Callable[[Callable[[Config], Any]], Callable[[], None]]:
    """Turn ``main(config)`` into a command that is configured by ``conf/<name>.yaml`` beside its file, or above it.

    Args:
        name: The root configuration and the job's name.
        schema: The dataclass of ``icnet.config`` that the composed configuration must fit; ``main`` gets an instance.
        program: How it is started, for its help; empty for ``python <name>.py``.

    Returns:
        A decorator. The decorated function takes no arguments, reads ``sys.argv`` and exits with status 2 and one
        line on standard error for every mistake in the input.
    """
    return lambda main: Command(name, schema, main, program or f"python {name}.py")


class Command:
    """A script's ``main`` as a command; see ``script`` for the arguments."""

    def __init__(self, name: str, schema: type[Any], main: Callable[[Any], Any], program: str) -> None:
        self.name, self.schema, self.main, self.program = name, schema, main, program
        folders = [folder / "conf" for folder in Path(inspect.getfile(main)).resolve().parents]
        self._conf = next((conf for conf in folders if (conf / f"{name}.yaml").exists()), folders[0])
        self._failed: list[int] = []  # of the jobs that ran in this process; SweepTable finds those of others
        self._defect: Exception | None = None  # what ``main`` raised, unlike an error of Hydra's
        self._shared: shared_folder.SharedRunFolder | None = None

    def __call__(self) -> None:
        """Read ``sys.argv``, run and exit."""
        # Hydra would print its own errors over several lines and exit with 1; let them through to here instead.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        ConfigStore.instance().store(name=f"{self.name}_schema", node=self.schema)
        given = sys.argv[1:] = readable(sys.argv[1:], self.schema)
        try:
            self._shared = shared_folder.shared_run_folder(given)
            sys.argv += self._shared.overrides if self._shared else []
            if not show_help(self.name, self.schema, self._conf, self.program):
                with sweep.search_given_up():
                    hydra.main(version_base="1.3", config_path=str(self._conf), config_name=self.name)(self.run_job)()
            if self._failed:
                sys.exit(min(self._failed))
        except Exception as error:
            line = None if error is self._defect else messages.composition_error(error, self._conf, given)
            if line is None:
                raise
            messages.exit_with(line)
        except (KeyboardInterrupt, SystemExit) as stop:  # or Lightning's exit, after it has ended the run
            if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
                sys.exit(messages.INTERRUPTED)
            raise
        finally:
            if self._shared:
                self._shared.tell("")
            run_folder.release_folders()

    def run_job(self, composed: DictConfig) -> Any:
        """Run ``main``; in a sweep with another launcher, this is what runs in its processes."""
        try:
            if self._shared:
                self._shared.tell(HydraConfig.get().runtime.output_dir)
            sweep.refuse_search_of_one_run()
            config: Any = OmegaConf.to_object(composed)
            messages.refuse_added_keys(config)
            if hasattr(config, "output_dir"):
                return job.run(self.name, self.main, config)
            with tidied_up():
                return self.main(config)
        except Exception as error:
            found = messages.verdict(error)
            if found is None and HydraConfig.get().mode == RunMode.MULTIRUN:
                traceback.print_exception(error)
                found = messages.DEFECT, f"{type(error).__name__}: {messages.flatten(str(error))}"
            if found is None:
                self._defect = error
                raise
            return self._fail(*found, noted=not isinstance(error, run_folder.FolderInUse))

    def _fail(self, status: int, line: str, *, noted: bool) -> None:
        """End here; or, in a sweep, note it in the job's folder and let the other jobs run first."""
        about = HydraConfig.get()
        if about.mode != RunMode.MULTIRUN:
            messages.exit_with(line, status)
        self._failed.append(status)
        messages.print_error(f"job {about.job.num}: {line}")
        if noted:
            write_failure(Path(about.runtime.output_dir), messages.FAILURES[status], line)
