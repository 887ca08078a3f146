"""Bodies and answers, whatever they hold: nothing but a row, or a BadBody, comes of it."""

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from flambeau.handlers.answers import encode
from flambeau.handlers.protocol import RequestHead
from flambeau.handlers.rows import BadBody, to_row

numbers = st.integers() | st.floats()
texts = st.text(st.characters(codec="utf-8"))
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
quick = settings(max_examples=60, deadline=None)


def head(kind):
    return RequestHead("predict", "r", [(b"content-type", kind)])


@quick
@given(values)
@example({"a": float("nan")})
@example([{}, [], {"": "\u2028\x00"}, 1e16, -0.0])
def test_answers_are_what_json_dumps_makes(value):
    text = value if isinstance(value, str) else json.dumps(value, indent=2)

    assert encode(value) == text.encode()


@quick
@given(values, st.booleans())
def test_json_is_what_json_loads_makes(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)

    row, _ = to_row(head(b"application/json"), memoryview(text.encode()))

    assert repr(row["body"]) == repr(json.loads(text))


@quick
@given(st.binary(max_size=60), st.sampled_from([b"application/json", b"text/html", b"application/x-www-form-urlencoded"]))
@example(b"a=\x80&%ff=%00&=", b"application/x-www-form-urlencoded")
@example(b"1e400", b"application/json")
@example(b'"\\ud800"', b"application/json")
@example(b"\xef\xbb\xbf1", b"application/json")
def test_any_bytes_make_a_row(body, kind):
    row, kinds = to_row(head(kind), memoryview(body))

    assert set(row) == set(kinds)


@quick
@given(
    st.lists(
        st.sampled_from(
            [b"--B", b"--", b"\r\n", b'Content-Disposition: form-data; name="a\\"b"', b"\xff", b";", b'"', b"x"]
        ),
        max_size=25,
    ),
    st.sampled_from(
        [b"multipart/form-data; boundary=B", b'multipart/form-data; boundary="B', b"multipart/form-data;;=;boundary"]
    ),
)
def test_any_multipart_body_is_a_row_or_bad(pieces, kind):
    try:
        row, kinds = to_row(head(kind), memoryview(b"".join(pieces)))
    except BadBody:
        return

    assert set(row) == set(kinds)


@quick
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters='\r\n"\\;='), min_size=1),
        st.binary(max_size=40),
        max_size=4,
    )
)
def test_multipart_bodies_arrive_byte_for_byte(fields):
    boundary = b"----b0undary"
    body = b"".join(
        b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="x"\r\n\r\n%s\r\n' % (boundary, name.encode(), value)
        for name, value in fields.items()
    )

    row, _ = to_row(head(b"multipart/form-data; boundary=" + boundary), memoryview(body + b"--%s--\r\n" % boundary))

    assert {name: bytes(value) for name, value in row.items()} == fields
