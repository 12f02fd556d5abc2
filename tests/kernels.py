"""A real Jupyter kernel of this interpreter, in a folder, and what its cells print."""

import os
from pathlib import Path

from jupyter_client.manager import KernelManager

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600  # seconds for a message, on a machine that does much else


class Kernel:
    """Runs cells; gives what each has printed, and how it ended."""

    def __init__(self, folder):
        self.manager = KernelManager(kernel_name="python3")
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.manager.start_kernel(cwd=str(folder), env=environment)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    def run(self, code, interrupt_at=None, again_at=None):
        """The text that a cell has printed, and the traceback that it ended with, lines of it, if any.

        Args:
            interrupt_at: a text after which, once it is printed, "interrupt kernel" is asked for.
            again_at: another one, to come later.
        """
        request = self.client.execute(code)
        printed, lines, marks = "", [], [mark for mark in (interrupt_at, again_at) if mark]
        while True:
            message = self.client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") != request:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                printed += content["text"]
                if marks and marks[0] in printed:
                    marks.pop(0)
                    self.manager.interrupt_kernel()
            elif message["msg_type"] == "error":
                lines = content["traceback"]
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return printed, lines

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
