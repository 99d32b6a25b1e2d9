"""Records without TFDS, against TFDS's own reading and writing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psdiff_jax.data.example import parse_example
from psdiff_jax.data.schema import read_record, record_features

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
RECORDS = st.fixed_dictionaries(
    {
        "image": st.binary(max_size=300),
        "image_name": st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        "height": INT32,
        "width": INT32,
        "camera": INT32,
        "frame": INT64,
        "scale": st.floats(width=32, allow_nan=False),
        "boxes": st.lists(st.tuples(*[st.floats(width=32, allow_nan=False)] * 4), max_size=5),
        "person_ids": st.lists(INT64, max_size=200),
    }
)


@given(RECORDS)
@settings(max_examples=40, deadline=None)
def test_a_record_is_read_as_tfds_reads_it(record):
    import tensorflow_datasets as tfds

    features = record_features()
    record["boxes"] = np.asarray(record["boxes"], np.float32).reshape(-1, 4)
    record["person_ids"] = np.asarray(record["person_ids"], np.int64)
    data = features.serialize_example(features.encode_example(record))
    expected = features.deserialize_example_np(data, decoders={"image": tfds.decode.SkipDecoding()})
    found = read_record(data)
    assert found.keys() == expected.keys()
    assert found["image"] == expected["image"] and found["image_name"] == expected["image_name"].decode()
    for name in ("height", "width", "camera", "frame"):
        assert type(found[name]) is int and found[name] == expected[name]
    assert type(found["scale"]) is float and found["scale"] == expected["scale"]
    for name in ("boxes", "person_ids"):
        assert found[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(found[name], expected[name])


def test_numbers_that_are_not_packed():
    # Example { features { feature { key: "n" value { int64_list { value: 5 value: -1 } } } } }
    values = b"\x08\x05" + b"\x08" + b"\xff" * 9 + b"\x01"
    feature = b"\x1a" + bytes([len(values)]) + values
    entry = b"\x0a\x01n\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    assert parse_example(b"\x0a" + bytes([len(features)]) + features)["n"].tolist() == [5, -1]


@pytest.mark.parametrize("data", [b"\x0a\x05\x01", b"\x0a\xff", b"\x0b\x00"])
def test_what_is_no_example_is_refused(data):
    with pytest.raises(ValueError, match=r"byte|end"):
        parse_example(data)
