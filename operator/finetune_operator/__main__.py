"""`python -m finetune_operator`: read the settings, log as JSON lines, run one replica."""

import asyncio
import sys

from finetune_operator.log import configure_logging
from finetune_operator.runtime import run
from finetune_operator.settings import Settings, SettingsError
from finetune_operator.tls import CertificateError


def main() -> int:
    """Run the operator; return the process's exit code (2 for settings or a certificate that cannot be used)."""
    try:
        settings = Settings.from_environment()
        configure_logging(settings.log_level)
        return asyncio.run(run(settings))
    except (SettingsError, CertificateError) as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
