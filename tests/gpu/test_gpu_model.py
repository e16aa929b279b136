"""The paper model: its sizes are those known of Llama-3.1-8B, it moves the right way, and the page shows its tables."""

import pytest

import gpu_model as model

INT4, FP8 = model.INT4_GOAL, model.FP8_GOAL


def test_the_8b_shape_has_the_parameters_that_it_has():
    shape = model.LLAMA_8B
    assert (shape.linear_params, shape.head_params) == (6_979_321_856, 525_336_576)
    # with the embedding and two norms a layer and one: 8,030,261,248, as its card says
    norms = (2 * shape.layers + 1) * shape.hidden
    assert shape.linear_params + 2 * shape.head_params + norms == 8_030_261_248
    assert shape.kv_bytes(2) == 131_072


def test_rooflines_are_those_the_goals_were_derived_from():
    # kernels of no cost but bytes and products, H200, context 1,000, 8-bit cache
    int4 = 6.979e9 * 4.125 / 8 + 0.525e9
    for batch, wanted in ((1, 1026), (8, 7381), (32, 21940)):
        assert model.roofline_rate(model.H200, int4, 0.79e15, batch, 1000, 1) == pytest.approx(wanted, rel=0.02)
    assert model.roofline_rate(model.H200, 7.504e9, 1.58e15, 256, 1000, 1) == pytest.approx(39831, rel=0.02)


@pytest.mark.parametrize("kernels", [kernels for pair in model.SETS.values() for kernels in pair])
def test_no_prediction_passes_its_roofline(kernels):
    for device in model.DEVICES:
        for batch in (1, 8, 32, 64, 128, 256):
            assert 0 < model.decode_rate(device, kernels, batch) < model.roofline_of(device, kernels, batch)


def test_more_sequences_never_give_fewer_tokens_but_at_a_pass_border():
    for kernels in (INT4, FP8):
        rates = [model.decode_rate(model.H200, kernels, batch) for batch in (1, 2, 8, 32, 128, 256)]
        assert rates == sorted(rates)


def test_rows_beyond_a_pass_read_the_weights_again():
    assert model.split_rows(64, 64) == [64] and model.split_rows(65, 64) == [64, 1]
    assert model.split_rows(1000, 0) == [1000]
    one, two = (model.linear_seconds(model.H200, model.INT4_TODAY, model.LLAMA_8B, rows, 0.45) for rows in (1, 257))
    assert two > 1.9 * one


def test_predictions_for_the_goals_kernels_are_within_a_third_of_the_goals():
    for (name, batch), goal in model.GOALS.items():
        kernels = INT4 if name == "INT4" else FP8
        rate = model.decode_rate(model.H200, kernels, batch) if batch else model.prefill_rate(model.H200, kernels)
        assert 0.66 < rate / goal < 1.34, (name, batch)


def test_launches_are_those_of_the_code():
    # norm, qkv, rope, attention, o, norm, gate-up, activation, down: 9 a layer; gather, norm and head; step and drawing
    for kernels in (model.INT4_TODAY, model.FP8_TODAY):
        assert model.launches(kernels, model.LLAMA_8B, 1) == 32 * 9 + 3 + 5


def test_launches_of_8_bit_activations_are_those_of_the_code():
    # norm and codes, q, k, v, finish, rope, attention, codes, o, finish, norm and codes, gate, up, finish, codes, down,
    # finish: 17 a layer (codes_linear.h); gather, norm and codes, head, finish; step and drawing
    assert model.launches(model.FP8_W8A8, model.LLAMA_8B, 1) == 32 * 17 + 4 + 5


def test_every_device_has_a_column_of_every_set():
    head = model.rate_table().splitlines()[0]
    assert all(f"{device.name}: {word} |" in head for device in model.DEVICES for word in model.SETS)
