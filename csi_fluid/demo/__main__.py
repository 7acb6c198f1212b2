"""The demonstration inside its namespaces: the first process of them."""

import signal
import sys


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it comes again and again; once is enough
    raise KeyboardInterrupt


def main() -> int:
    """Tell the story and return the exit code."""
    try:
        signal.signal(signal.SIGTERM, _interrupt)
        from csi_fluid.demo import options

        given = options.parse(sys.argv[1:])
        if given.serverless:
            from csi_fluid.demo import sidecars

            return sidecars.tell(given)
        if given.seamless:
            from csi_fluid.demo import seamless

            return seamless.tell(given)
        from csi_fluid.demo import story

        return story.tell(given)
    except KeyboardInterrupt:
        print(
            "\ninterrupted: all that was started is ended, nothing is left behind", file=sys.stderr
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())
