import pytest

from flambeau.handlers.protocol import FRAME, Kind, ProtocolError, Reader, RequestHead, pack


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_frames_survive_any_cut_of_the_stream(size):
    head = RequestHead("predict", "id-1", [(b"content-type", b"text/plain")])
    stream = pack(Kind.REQUEST, 7, head, b"hello") + pack(Kind.CANCEL, 8)
    reader = Reader()

    frames = [frame for at in range(0, len(stream), size) for frame in reader.feed(stream[at : at + size])]

    assert [(frame.kind, frame.id) for frame in frames] == [(Kind.REQUEST, 7), (Kind.CANCEL, 8)]
    assert frames[0].head(RequestHead) == head
    assert bytes(frames[0].body) == b"hello"


@pytest.mark.parametrize("size", [1, 1000])
def test_an_impossible_length_ends_the_link(size):
    reader = Reader(max_frame_bytes=50)
    stream = FRAME.pack(99, Kind.REQUEST, 1)
    *whole, last = [stream[at : at + size] for at in range(0, len(stream), size)]
    for piece in whole:
        assert reader.feed(piece) == []

    with pytest.raises(ProtocolError, match="99 bytes"):
        reader.feed(last)
