"""Entry point of ``python3 dev/cluster <verb>``: see ``finetune_cluster.cli`` for the verbs."""

import sys

from finetune_cluster.cli import main

if __name__ == "__main__":
    sys.exit(main())
