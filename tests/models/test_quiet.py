"""Transformers is silent while anybody asks for it, and as loud as before once nobody does."""

import threading

from transformers.utils import logging

from mtllm_ds.models.quiet import quiet_transformers


def test_threads_that_overlap_leave_the_level_as_it_was():
    before = logging.get_verbosity()
    logging.set_verbosity_info()
    inside, leave = threading.Event(), threading.Event()

    def other():
        with quiet_transformers():
            inside.set()
            leave.wait(10)

    try:
        thread = threading.Thread(target=other)
        with quiet_transformers():
            thread.start()
            assert inside.wait(10)
        assert logging.get_verbosity() == logging.ERROR, "the other is still inside"
        leave.set()
        thread.join()
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity(before)
