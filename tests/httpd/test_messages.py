from hypothesis import given
from hypothesis import strategies as st

from exporter.httpd.messages import Pieces


@given(st.lists(st.binary(max_size=5), max_size=6), st.integers(-2, 40), st.integers(-2, 40))
def test_pieces_read_as_their_bytes(pieces: list[bytes], start: int, end: int) -> None:
    """Empty pieces included, a body in pieces has the length and the parts of the whole."""
    whole, body = b"".join(pieces), Pieces(pieces)
    assert (len(body), bytes(body)) == (len(whole), whole)
    assert body[start:end] == whole[start:end]
    assert body[start:] == whole[start:]
