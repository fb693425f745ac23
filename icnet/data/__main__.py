"""Look through a data set: ``python -m icnet.data data=folder data.root=PATH``; ``--help`` lists every key."""

from icnet.config import CheckConfig
from icnet.launch import command


@command.script("check", CheckConfig, program="python -m icnet.data")
def main(config: CheckConfig) -> None:
    """Look at every file, write the page and the JSON file, and list what a training would end at."""
    from pathlib import Path

    from icnet import factory
    from icnet.errors import UserError
    from icnet.report.data_page import print_findings, write_data_page
    from icnet.run.data_findings import write_findings

    output = Path(config.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output} is no folder ({error.strerror}); choose another with output=PATH") from None
    findings = factory.look_through(config, output)
    written = write_findings(output, findings)
    page = write_data_page(findings, output)
    print_findings(findings)
    print(f"{page.name} and {written.name} are in {output}")
    if findings.problems:
        count = len(findings.problems)
        what = f"{count} problems" if count > 1 else "a problem"
        raise UserError(f"{findings.data} has {what}, listed above and in {page}; a training would end there")


if __name__ == "__main__":
    main()
