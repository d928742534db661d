"""The packages of the workflow; their README says what each holds."""

import signal
import sys

# While a stage imports (`python -m` has not put its file into argv yet), Ctrl-C ends it without a traceback; `run` then
# says one sentence. A shell may have let it ignore Ctrl-C.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
