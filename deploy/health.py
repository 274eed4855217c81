"""Exit with 0 if the process of this container answers that it is well, else with 1.

``THC_HEALTH_URL`` says where to ask; without it a scheduler's own page.
"""

import os
import sys
import urllib.error
import urllib.request

DEFAULT = "http://127.0.0.1:8787/health"


def main() -> int:
    """Return the exit code."""
    url = os.environ.get("THC_HEALTH_URL", DEFAULT)
    # A proxy of the environment is for the way out, not for this container.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=4) as answer:
            return 0 if answer.status == 200 else 1
    except (OSError, ValueError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
