"""The resident model against transformers and PEFT alone: identities at step 0, invariances, adapters."""

import hashlib
import json
from collections import OrderedDict

import pytest
import torch
from peft import PeftConfig, PeftModel

from alignbench.api import Demonstration, TokenBatch
from alignbench.engine.meter import Meter
from alignbench.engine.passes import blocks, positions
from alignbench.engine.resident import Engine
from alignbench.engine.supervised import fit_supervised
from alignbench.errors import UserError
from alignbench.suite.spec import Lora, Training

PLAIN_HEADS = ["gpt2", "llama"]
EVERY_MODEL = [*PLAIN_HEADS, "granite", "gemma2"]
PROMPTS = ["the film is", "a", "", "the plot of the long film"]
COMPLETIONS = [" good", " dull long plot, and a bad one", " a", ""]


def encoded(resident):
    return resident.codec.encode(PROMPTS, COMPLETIONS, max_new_tokens=12)


@torch.no_grad()
def by_transformers(model, batch):
    """(B, T) log-probabilities of the response tokens, one unpadded row at a time, from all logits."""
    out = torch.zeros(batch.ids.shape)
    for row, (ids, is_token, is_response) in enumerate(zip(*batch, strict=True)):
        log_p = model(input_ids=ids[is_token][None]).logits[0].log_softmax(-1)
        for t in is_response.nonzero().flatten().tolist():
            out[row, t] = log_p[t - 1, ids[t]]
    return out


@torch.no_grad()
def all_logits(resident, batch):
    return resident.module(input_ids=batch.ids, attention_mask=batch.is_token.long()).logits


@pytest.fixture
def saved(resident, shake, tmp_path):
    """`saved(name)`: the folder of a randomised adapter, and the log-probabilities it gave."""

    def make(name):
        made = resident(name)
        shake(made.add_adapter("start", 0))
        made.save_adapter("start", tmp_path / name)
        with torch.no_grad():
            return tmp_path / name, made.logprobs(encoded(made)), all_logits(made, encoded(made))

    return make


# ------------------------------------------------------------------------------------------------ log-probabilities


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_logprobs_are_those_of_transformers_on_unpadded_rows(resident, plain, name):
    made = resident(name)
    batch = encoded(made)
    with torch.no_grad():
        torch.testing.assert_close(made.logprobs(batch), by_transformers(plain(name), batch), atol=1e-5, rtol=1e-5)
        assert (made.logprobs(batch)[~batch.is_response] == 0).all()


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_the_pass_with_entropies_gives_the_same_logprobs(resident, plain, name):
    made = resident(name)
    batch = encoded(made)
    logprobs, entropies, states = made.logprobs_and_entropies(batch, 0.7)
    torch.testing.assert_close(logprobs, made.logprobs(batch, 0.7), atol=1e-5, rtol=1e-5)
    log_p = (plain(name)(input_ids=batch.ids[:1, : batch.is_token[0].sum()]).logits[0] / 0.7).log_softmax(-1)
    first = int(batch.is_response[0].nonzero()[0])
    torch.testing.assert_close(entropies[0, first], -(log_p.exp() * log_p).sum(-1)[first - 1], atol=1e-5, rtol=1e-5)
    assert states.shape == (int(batch.is_response.sum()), made.hidden_size)


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_many_rows_go_block_by_block_to_the_same_numbers_and_gradients(resident, shake, name, monkeypatch):
    made = resident(name)
    weights = made.add_adapter("policy", 0)
    shake(weights)
    batch, seen = encoded(made), []
    for rows in (256, 3):
        monkeypatch.setattr("alignbench.engine.logprobs.ROWS_PER_BLOCK", rows)
        with torch.no_grad():
            values = made.logprobs_and_entropies(batch, 0.7)
        logprobs, entropies, _ = made.logprobs_and_entropies(batch, 0.7)
        gradients = torch.autograd.grad((logprobs + 0.3 * entropies).sum(), weights)
        seen.append([*values, logprobs, entropies, *gradients])
    for whole, blocks_of_3 in zip(*seen, strict=True):
        torch.testing.assert_close(blocks_of_3, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_padding_batch_order_and_batch_size_change_nothing(resident, name):
    made = resident(name)
    with torch.no_grad():
        whole = made.logprobs(encoded(made)).sum(-1)
        singles = [
            made.logprobs(made.codec.encode([p], [c], max_new_tokens=12)).sum()
            for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
        ]
        turned = made.logprobs(made.codec.encode(PROMPTS[::-1], COMPLETIONS[::-1], max_new_tokens=12)).sum(-1)
    torch.testing.assert_close(whole, torch.stack(singles), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole, turned.flip(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PLAIN_HEADS)
def test_what_padding_holds_changes_nothing(resident, name):
    made = resident(name)
    batch = encoded(made)
    other = batch._replace(ids=torch.where(batch.is_token, batch.ids, 11))
    with torch.no_grad():
        torch.testing.assert_close(made.logprobs(other), made.logprobs(batch), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", PLAIN_HEADS)
def test_left_padded_rows_give_the_logprobs_of_right_padded_ones(resident, name):
    made = resident(name)
    right = encoded(made)
    shifts = (~right.is_token).sum(-1).tolist()
    left = TokenBatch(*(torch.stack([r.roll(s) for r, s in zip(t, shifts, strict=True)]) for t in right))
    assert not left.is_token[:, 0].all()
    with torch.no_grad():
        ours, theirs = made.logprobs(left), made.logprobs(right)
    torch.testing.assert_close(ours[left.is_response], theirs[right.is_response], atol=1e-5, rtol=1e-5)


def test_positions_count_real_tokens_on_either_side_of_the_padding():
    is_token = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
    assert positions(is_token).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_block_states_are_the_hidden_states_of_transformers_without_the_adapter(resident, plain, shake, name):
    made = resident(name)
    shake(made.add_adapter("policy", 0))
    ids = made.codec.padded([made.codec.prompt("the long film")], [[]])
    states = made.block_states(ids, [0, 1, 0])
    theirs = plain(name)(input_ids=ids.ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[0], theirs[1], atol=1e-5, rtol=1e-5)
    assert torch.equal(states[0], states[2])
    if len(blocks(made.base)) > 2:  # the last of transformers' states is normalised
        torch.testing.assert_close(states[1], theirs[2], atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------ adapters


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_a_fresh_adapter_changes_no_bit(resident, name):
    made = resident(name)
    batch = encoded(made)
    bare = all_logits(made, batch)
    made.add_adapter("policy", 0)
    assert torch.equal(all_logits(made, batch), bare)


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_a_changed_adapter_switched_off_is_the_bare_model_bit_for_bit(resident, shake, name):
    made = resident(name)
    batch = encoded(made)
    bare = all_logits(made, batch)
    shake(made.add_adapter("policy", 0))
    assert not torch.allclose(all_logits(made, batch), bare, atol=1e-2)
    with made.using(None):
        assert torch.equal(all_logits(made, batch), bare)
    made.drop_adapters()
    assert torch.equal(all_logits(made, batch), bare)


@pytest.mark.parametrize("name", PLAIN_HEADS)
def test_two_adapters_on_one_model_do_not_see_each_other(resident, shake, name):
    made = resident(name)
    batch = encoded(made)
    shake(made.add_adapter("reward", 0), seed=1)
    reward = all_logits(made, batch)
    weights = made.add_adapter("policy", 0)
    assert len(weights) == len(made.activate("reward"))
    shake(made.activate("policy"), seed=2)
    policy = all_logits(made, batch)
    with made.using("reward"):
        assert torch.equal(all_logits(made, batch), reward)
        assert {n.split(".")[-2] for n, p in made.module.named_parameters() if p.requires_grad} == {"reward"}
    assert torch.equal(all_logits(made, batch), policy)
    assert {n.split(".")[-2] for n, p in made.module.named_parameters() if p.requires_grad} == {"policy"}


def test_nested_switches_give_each_level_its_own_adapter(resident, shake):
    made = resident("llama")
    batch = encoded(made)
    bare = all_logits(made, batch)
    for seed, adapter in enumerate(("reward", "policy")):
        shake(made.add_adapter(adapter, 0), seed=seed)
    policy = all_logits(made, batch)
    with made.using("reward"):
        reward = all_logits(made, batch)
    with made.using(None):
        with made.using("reward"):
            with made.using(None):
                assert torch.equal(all_logits(made, batch), bare)
            assert torch.equal(all_logits(made, batch), reward)
        with made.using("policy"):
            assert torch.equal(all_logits(made, batch), policy)
        assert torch.equal(all_logits(made, batch), bare)
    assert torch.equal(all_logits(made, batch), policy)
    assert all(p.requires_grad for n, p in made.module.named_parameters() if ".policy." in n)


def test_an_error_inside_leaves_the_adapter_as_it_was(resident, shake):
    made = resident("llama")
    shake(made.add_adapter("policy", 0))
    before = all_logits(made, encoded(made))
    with pytest.raises(ZeroDivisionError), made.using(None):
        1 / 0  # noqa: B018
    assert torch.equal(all_logits(made, encoded(made)), before)


def test_an_adapter_that_is_not_there_is_a_key_error(resident):
    with pytest.raises(KeyError, match="policy"), resident("llama").using("policy"):
        pass


@pytest.mark.parametrize("name", PLAIN_HEADS)
def test_a_saved_adapter_comes_back_here_and_in_peft(resident, plain, saved, name):
    folder, logprobs, _ = saved(name)
    assert sorted(f.name for f in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    made = resident(name)
    made.load_adapter("other", folder)
    batch = encoded(made)
    with torch.no_grad():
        assert torch.equal(made.logprobs(batch), logprobs)
    theirs = PeftModel.from_pretrained(plain(name), folder).eval()
    torch.testing.assert_close(by_transformers(theirs, batch), logprobs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_a_merged_start_gives_the_outputs_of_its_adapter(resident, saved, name):
    folder, logprobs, logits = saved(name)
    merged = resident(name, starts=[folder])
    assert merged.module is merged.base
    with torch.no_grad():
        torch.testing.assert_close(merged.logprobs(encoded(merged)), logprobs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        all_logits(merged, encoded(merged)), logits, atol=5e-6 * float(logits.abs().max()), rtol=0
    )
    assert not any(p.requires_grad for p in merged.base.parameters())


def test_reference_of_a_merged_start_is_the_start_and_not_the_raw_base(resident, saved, shake):
    folder, logprobs, _ = saved("llama")
    made = resident("llama", starts=[folder])
    shake(made.add_adapter("policy", 0))
    with torch.no_grad(), made.using(None):
        torch.testing.assert_close(made.logprobs(encoded(made)), logprobs, atol=1e-5, rtol=1e-5)
        raw = resident("llama")
        assert not torch.allclose(raw.logprobs(encoded(raw)), logprobs, atol=1e-2)


@pytest.mark.parametrize("name", PLAIN_HEADS)
def test_lora_layers_adapts_the_topmost_blocks_alone(resident, shake, name):
    made = resident(name, layers=1)
    inputs = made.codec.padded([made.codec.prompt("the long film")], [[]])
    shake(made.add_adapter("policy", 0))
    names = [n for n, p in made.module.named_parameters() if p.requires_grad]
    assert names
    assert all(".2." in n for n in names)
    with torch.no_grad():
        seen = []
        for block in blocks(made.base):
            block.register_forward_hook(lambda m, a, out: seen.append(out[0] if isinstance(out, tuple) else out))
        made.module(input_ids=inputs.ids)
        with made.using(None):
            made.module(input_ids=inputs.ids)
    assert [torch.equal(on, off) for on, off in zip(seen[:3], seen[3:], strict=True)] == [True, True, False]


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_states_kept_from_below_the_adapters_change_no_number_and_no_gradient(resident, plain, shake, tmp_path, name):
    made = resident(name, layers=1)
    weights = made.add_adapter("policy", 0)
    shake(weights)
    made.save_adapter("policy", tmp_path)
    batch = encoded(made)
    expected = by_transformers(PeftModel.from_pretrained(plain(name), tmp_path).eval(), batch)
    bare = by_transformers(plain(name), batch)
    with torch.no_grad():
        few = made.codec.encode(PROMPTS[1:3], COMPLETIONS[1:3], max_new_tokens=12)
        torch.testing.assert_close(made.logprobs(few), expected[1:3, : few.ids.shape[1]], atol=1e-5, rtol=1e-5)
        for _ in range(2):  # some rows new, then all of them kept
            torch.testing.assert_close(made.logprobs(batch), expected, atol=1e-5, rtol=1e-5)
        with made.using(None):
            torch.testing.assert_close(made.logprobs(batch), bare, atol=1e-5, rtol=1e-5)
    other = resident(name, layers=1, kernels="plain")
    of_other = other.load_adapter("policy", tmp_path)
    gradients = [torch.autograd.grad(r.logprobs(batch).sum(), w) for r, w in ((made, weights), (other, of_other))]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_target_modules_are_adapted_by_name_on_both_of_two_adapters(resident):
    made = resident("llama", target_modules=("q_proj", "v_proj"))
    for adapter in ("reward", "policy"):
        made.add_adapter(adapter, 0)
        names = {n.split(".")[-4] for n, p in made.module.named_parameters() if p.requires_grad}
        assert names == {"q_proj", "v_proj"}


def test_impossible_lora_options_name_what_the_model_has(resident):
    with pytest.raises(UserError, match=r"layers: 4 asked for adapter 'policy', the model has 3; lower it"):
        resident("llama", layers=4).add_adapter("policy", 0)
    with pytest.raises(UserError, match=r"no layer named wq; the model has down_proj, gate_proj, k_proj"):
        resident("llama", target_modules=("q_proj", "wq")).add_adapter("policy", 0)


def test_a_folder_without_a_model_is_one_line(tmp_path):
    engine = Engine(tmp_path, Lora(), torch.device("cpu"), torch.float32, OrderedDict())
    with pytest.raises(UserError, match=r"does not load: .*; name an alias, a Hub id or a folder") as caught:
        engine.resident().__enter__()
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ training


def fingerprint(model):
    return {
        n: hashlib.sha256(t.numpy().tobytes()).hexdigest() for n, t in model.state_dict().items() if "lora_" not in n
    }


@pytest.mark.parametrize("name", PLAIN_HEADS)
def test_training_moves_no_base_weight_and_nothing_is_left_after_dropping(resident, name):
    made = resident(name)
    before = fingerprint(made.base)
    config = Training(max_steps=2, per_device_train_batch_size=2)
    demonstrations = [Demonstration(p, c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    history = fit_supervised(
        made, demonstrations, config, seed=0, max_new_tokens=8, meter=Meter(made.device), adapter="sft"
    )
    assert len(history) == 2
    assert any(p.abs().sum() > 0 for n, p in made.module.named_parameters() if "lora_B" in n)
    made.drop_adapters()
    assert fingerprint(made.base) == before
    assert not any("lora" in n for n, _ in made.base.named_modules())


def test_a_run_that_fails_in_training_leaves_no_dropout_for_the_next(tiny_models):
    engine = Engine(tiny_models["gpt2"], Lora(), torch.device("cpu"), torch.float32, OrderedDict())
    with pytest.raises(ZeroDivisionError), engine.resident() as made:  # noqa: PT012
        made.add_adapter("policy", 0)
        made.module.train()
        1 / 0  # noqa: B018
    with engine.resident() as made, torch.no_grad():
        assert torch.equal(made.logprobs(encoded(made)), made.logprobs(encoded(made)))


def test_the_engine_keeps_the_two_residents_used_last(tiny_models, tmp_path):
    engine = Engine(tiny_models["llama"], Lora(), torch.device("cpu"), torch.float32, OrderedDict())
    with engine.resident() as first:
        first.add_adapter("start", 0)
        first.save_adapter("start", tmp_path)
    with engine.resident() as again:
        assert again is first
        assert again.module is again.base
    with engine.resident([tmp_path]) as start, engine.resident([tmp_path, tmp_path]):
        pass
    with engine.resident([tmp_path]) as kept:
        assert kept is start
    with engine.resident() as reloaded:
        assert reloaded is not first


def test_an_adapter_nobody_added_leaves_the_mode_as_it_was(resident):
    made = resident("llama")
    made.add_adapter("policy", 0)
    made.module.train()
    with pytest.raises((KeyError, ValueError)), made.using("nobody"):
        pass
    assert made.base.training


def test_a_saved_adapter_names_its_model_and_no_folder_of_this_machine(resident, tiny_models, tmp_path):
    made = resident("llama")
    made.add_adapter("start", 0)
    made.save_adapter("start", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny_models["llama"].name
    assert not any(str(tiny_models["llama"].parent) in file.read_text(errors="replace") for file in tmp_path.iterdir())
    assert PeftConfig.from_pretrained(tmp_path).r == 4
