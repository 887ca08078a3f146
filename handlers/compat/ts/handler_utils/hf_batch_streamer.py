"""ts.handler_utils.hf_batch_streamer"""

from queue import Empty

from transformers import TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer


class TextIteratorStreamerBatch(BaseStreamer):
    """One text streamer for each row of a batch; iterating gives a list of the rows' new texts."""

    def __init__(self, tokenizer, batch_size, skip_prompt=False, timeout=None, **decode_kwargs):
        self.batch_size = batch_size
        self.streamers = [TextIteratorStreamer(tokenizer, skip_prompt, timeout, **decode_kwargs) for _ in range(batch_size)]

    def put(self, value):
        if len(value) != self.batch_size:
            raise ValueError(f"{len(value)} rows for a streamer of {self.batch_size}")
        for streamer, row in zip(self.streamers, value, strict=True):
            streamer.put(row.reshape(-1))

    def end(self):
        for streamer in self.streamers:
            streamer.end()

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return [next(streamer) for streamer in self.streamers]
        except Empty:
            raise TimeoutError("the model gave no text in time") from None
