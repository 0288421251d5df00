"""Matching and features row by row in plain Python: slow, obvious, and the check of the fast ones.

One behaviour sample is a dict, one query is a dict; nothing is vectorised and nothing is shared with `ifllm`.
The tests compare its numbers with `ifllm.recording.features` to 1e-9, and `benchmarks/features.py` compares the time
per row. Three things are given to it: the windows' ends, the width of the page and pymovements' reading measures.
"""

import bisect
import math
import re
import statistics

NOTICE = (
    "After you type your question, please wait patiently. It might take up to 1 minute for "
    "AI to finish generating their answer. "
    "The AI's response will show up here."
)
CAP_MS = 1000.0
LOST_STEPS, LOST_MS = 3, 100


def fits(text, window, index):
    """The study's rule: the snippet lies within 15 characters of the index, newlines as spaces."""

    def flat(s):
        return s.replace("\n", " ").replace("\r", " ")

    return flat(window) in flat(text)[max(0, index - 15) : max(0, index + 15)]


def text_of(query, side):
    return query["response_2"] if side == "right" else query["response_1"]


def match(rows, queries):
    """Add to each row (dicts of one worker's task, by file and row number): query, how, char, query_study."""
    queries = sorted(queries, key=lambda q: q["turn"])
    files = {}
    for row in rows:
        files.setdefault((row["modality"], row["side"]), []).append(row)
    for (_, side), own in files.items():
        own.sort(key=lambda r: r["row"])
        last = None
        for row in own:
            known = row["window"] is not None and row["centre_idx"] is not None
            notice = known and fits(NOTICE, row["window"], row["centre_idx"])
            found = (
                [
                    q
                    for q in queries
                    if text_of(q, side) is not None and fits(text_of(q, side), row["window"], row["centre_idx"])
                ]
                if known and not notice
                else []
            )
            if not row["on_element"]:
                row["query_study"] = last if last is not None else -2
            elif notice or row["window"] is None:
                row["query_study"] = -1
            elif found:
                row["query_study"] = last = found[0]["query"]
            else:
                row["query_study"] = 0
            shown = [q for q in queries if q["shown_ms"] is not None and q["shown_ms"] <= row["epoch_ms"]]
            now = max(shown, key=lambda q: q["shown_ms"])["query"] if shown else None
            row["char"] = None
            if found:
                row["how"] = "exact" if len(found) == 1 else "ambiguous"
                past = [q for q in found if q["shown_ms"] is not None and q["shown_ms"] <= row["epoch_ms"]]
                chosen = found[0] if len(found) == 1 or not past else past[-1]
                row["query"], row["char"] = chosen["query"], min(row["centre_idx"], len(text_of(chosen, side)) - 1)
                row["length"] = len(text_of(chosen, side))
            elif notice or now is None:
                row["how"], row["query"] = "none", None
            else:
                row["how"], row["query"] = "by_time", now
        stand(sorted(own, key=lambda r: (r["epoch_ms"], r["row"])))
    rows[:] = [r for r in rows if r["x"] is None or not math.isnan(r["x"])]
    return rows


def stand(rows):
    """Add how long each row of a file stands for: until the next one, and one median step where the eyes were lost in
    between."""
    steps = [b["epoch_ms"] - a["epoch_ms"] for a, b in zip(rows, rows[1:])]
    usual = statistics.median([s for s in steps if s > 0] or [0])
    for row, step in zip(rows, steps + [0]):
        lost = step > LOST_STEPS * usual and step > LOST_MS
        row["dt_ms"] = float(min(usual if lost else step, CAP_MS))


def add_phases(rows):
    """Add the phase of each matched row of a task: whether text of its query was looked at before and after,
    and how long in between."""
    seen = {}
    for row in rows:
        if row["char"] is not None:
            seen.setdefault((row["modality"], row["query"]), []).append(row["epoch_ms"])
    for times in seen.values():
        times.sort()
    for row in rows:
        times = seen.get((row["modality"], row["query"]), [])
        before, after = bisect.bisect_right(times, row["epoch_ms"]), bisect.bisect_left(times, row["epoch_ms"])
        if row["query"] is None:
            row["phase"] = None
        elif before == 0 or after == len(times):
            row["phase"] = "composing"
        else:
            row["phase"] = "idle" if times[after] - times[before - 1] > CAP_MS else "reviewing"


def engaged_ms(times):
    times = sorted(times)
    return sum(min(b - a, CAP_MS) for a, b in zip(times, times[1:]))


def mean(values):
    return statistics.fmean(values) if values else 0.0


def capped(a, b):
    return min(a / (b + 0.001), 100.0)


def inside(row, span):
    return span is None or span[0] <= row["epoch_ms"] < span[1]


def study_answer(rows, query, side, span):
    """The study's features of one answer in one modality: rows of that file."""
    text = text_of(query, side)
    rows = [r for r in rows if r["query_study"] == query["query"] and inside(r, span)]
    if not rows:
        return {}
    looks = sorted((r for r in rows if r["on_element"] and r["centre_idx"] is not None), key=lambda r: r["t_ms"])
    share = [r["centre_idx"] / len(text) for r in looks]
    times = [r["t_ms"] for r in looks]
    out = {
        "data_points": len(rows),
        "overall_attention_ratio": len(looks) / len(rows),
        "focused_engagement_time": engaged_ms(times),
        "focused_engagement_ratio": engaged_ms(times) / (times[-1] - times[0])
        if len(times) > 1 and times[-1] > times[0]
        else 0.0,
        "normalized_avg_char_position": mean(share),
        "reading_completion_ratio": min(1.0, max(share)) if share else 0.0,
        "normalized_char_position_variance": statistics.variance(share) if len(share) > 1 else 0.0,
    }
    for i in range(20):
        out[f"window_{i:03d}"] = 0.0
    if len(times) > 1 and times[-1] > times[0]:
        step = (times[-1] - times[0]) / 20
        for i in range(20):
            out[f"window_{i:03d}"] = mean(
                [s for s, t in zip(share, times) if times[0] + i * step <= t < times[0] + (i + 1) * step]
            )
    return out


def study_metrics(rows, query, span):
    """The all-metrics features of one file: a sample belongs to the query that was last matched for the first time."""
    begin = {}
    for r in rows:
        if r["on_element"] and r["query_study"] > 0:
            begin[r["query_study"]] = min(begin.get(r["query_study"], math.inf), r["t_ms"])
    own = []
    for r in rows:
        started = [(t, q) for q, t in begin.items() if t <= r["t_ms"]]
        if started and max(started)[1] == query["query"] and inside(r, span):
            own.append(r)
    if not own:
        return {}, None
    index = [r["centre_idx"] for r in own if r["centre_idx"] is not None]
    green = sum(1 for r in own if r["flag"] is None or r["flag"])
    return {
        "total_entries": len(own),
        "onscreen_points": sum(r["on_element"] for r in own),
        "max_idx": max(index) if index else -1,
    }, green


def study_pointwise(rows, query, span):
    """The phases of one pointwise query in one file."""
    known = [r for r in rows if r["query_study"] > 0]
    looks = [r for r in known if r["centre_idx"] is not None]
    order = sorted(
        {r["query_study"] for r in known}, key=lambda q: (min(r["t_ms"] for r in known if r["query_study"] == q), q)
    )
    own = [r["t_ms"] for r in looks if r["query_study"] == query["query"] and inside(r, span)]
    if not own:
        return {}
    place = order.index(query["query"])
    first, end = min(own), max(own)
    if place == len(order) - 1:
        end = (
            max(r["t_ms"] for r in rows)
            if span is None
            else max(r["t_ms"] for r in known if r["query_study"] == query["query"] and inside(r, span))
        )
    if place == 0:
        start = min(r["t_ms"] for r in rows)
    else:
        before = [r["t_ms"] for r in looks if r["query_study"] == order[place - 1] and r["t_ms"] < first]
        start = max(before) if before else first
    review = [r for r in rows if first <= r["t_ms"] <= end]
    compose = [r for r in rows if start <= r["t_ms"] < first]
    out = {
        "reviewing_duration_s": (end - first) / 1000,
        "composing_duration_s": (first - start) / 1000,
        "max_char_position_reached": max([r["centre_idx"] for r in review if r["centre_idx"] is not None] or [0]),
    }
    total = out["reviewing_duration_s"] + out["composing_duration_s"]
    for name, part in (("reviewing", review), ("composing", compose)):
        out[f"{name}_pct"] = 100 * out[f"{name}_duration_s"] / total if total > 0 else 0.0
        out[f"{name}_active_ratio"] = mean([float(r["on_element"]) for r in part])
        out[f"{name}_offscreen_ratio"] = mean([float(not r["on_element"]) for r in part])
        out[f"active_time_{name}_s"] = out[f"{name}_duration_s"] * out[f"{name}_active_ratio"]
        out[f"offscreen_time_{name}_s"] = out[f"{name}_duration_s"] * out[f"{name}_offscreen_ratio"]
    out["composing_lookback_ratio"] = mean([float(r["centre_idx"] is not None) for r in compose])
    out["composing_thinking_ratio"] = mean([float(r["on_element"] and r["centre_idx"] is None) for r in compose])
    out["reviewing_composing_duration_ratio"] = capped(out["reviewing_duration_s"], out["composing_duration_s"])
    out["reviewing_composing_activity_ratio"] = capped(out["reviewing_active_ratio"], out["composing_active_ratio"])
    out["composing_reviewing_activity_diff"] = out["composing_active_ratio"] - out["reviewing_active_ratio"]
    out["offscreen_increase"] = out["composing_offscreen_ratio"] - out["reviewing_offscreen_ratio"]
    out["lookback_time_s"] = out["composing_duration_s"] * out["composing_lookback_ratio"]
    out["thinking_time_s"] = out["composing_duration_s"] * out["composing_thinking_ratio"]
    return out


def study_pairwise(left, right, span):
    """The phases of a pairwise timeline (the whole task's without a span) in one modality."""
    sides = {"left": [r for r in left if inside(r, span)], "right": [r for r in right if inside(r, span)]}
    line = sides["left"] + sides["right"]
    if not any(r["query_study"] > 0 and r["centre_idx"] is not None for r in line):
        return {}
    start, end = min(r["t_ms"] for r in line), max(r["t_ms"] for r in line)
    boundary = max(r["t_ms"] for r in line if r["centre_idx"] is not None)
    out = {
        "composing_duration_s": (end - boundary) / 1000,
        "composing_pct": 100 * (end - boundary) / (end - start) if end > start else 0.0,
    }
    for side, rows in sides.items():
        if not rows:
            continue
        review = [r for r in rows if r["t_ms"] < boundary]
        looked = [r for r in review if r["on_element"]]
        engaged = engaged_ms([r["t_ms"] for r in looked])
        back = engaged_ms([r["t_ms"] for r in rows if r["t_ms"] >= boundary and r["query_study"] == -1])
        out |= {
            f"{side}_reviewing_engaged_time_s": engaged / 1000,
            f"{side}_reviewing_engaged_pct": 100 * engaged / (end - start) if end > start else 0.0,
            f"{side}_reviewing_active_ratio": engaged / (boundary - start) if boundary > start else 0.0,
            f"{side}_reviewing_onscreen_ratio": len(looked) / len(review) if review else 0.0,
            f"{side}_reviewing_offscreen_ratio": 1 - (len(looked) / len(review) if review else 0.0),
            f"{side}_reviewing_entries": len(looked),
            f"{side}_max_char_position_reached": max(
                [r["centre_idx"] if r["centre_idx"] is not None else -1 for r in looked] or [0]
            ),
            f"{side}_composing_lookback_time_s": back / 1000,
            f"{side}_composing_lookback_ratio": back / (end - boundary) if end > boundary else 0.0,
        }
    return out


def our_answer(rows, span, length):
    """Our features of one answer in one modality: samples on its text in the window, in order of time."""
    rows = sorted(rows, key=lambda r: (r["epoch_ms"], r["row"]))
    if not rows:
        return {}
    dwell = sum(r["dt_ms"] for r in rows)
    place = [r["char"] / length for r in rows]
    weight = [r["dt_ms"] + 1e-3 for r in rows]
    centre = sum(p * w for p, w in zip(place, weight)) / sum(weight)
    cells = len({r["char"] // 40 for r in rows})
    new = [i == 0 or rows[i]["epoch_ms"] - rows[i - 1]["epoch_ms"] > CAP_MS for i in range(len(rows))]
    steps = [rows[i]["char"] - rows[i - 1]["char"] for i in range(1, len(rows)) if not new[i]]
    moved = [s for s in steps if s]
    parts = {}
    for p, w in zip(place, weight):
        parts[min(int(p * 20), 19)] = parts.get(min(int(p * 20), 19), 0.0) + w
    out = {
        "dwell_s": dwell / 1000,
        "dwell_per_char_ms": dwell / length,
        "coverage": cells / math.ceil(length / 40),
        "depth": max(place),
        "position_mean": centre,
        "position_sd": math.sqrt(sum((p - centre) ** 2 * w for p, w in zip(place, weight)) / sum(weight)),
        "first_position": place[0],
        "last_position": place[-1],
        "head_share": sum(w for p, w in zip(place, weight) if p < 0.2) / sum(weight),
        "tail_share": sum(w for p, w in zip(place, weight) if p >= 0.8) / sum(weight),
        "visits": sum(new),
        "visit_s": dwell / 1000 / sum(new),
        "first_look_s": (rows[0]["epoch_ms"] - span[0]) / 1000,
        "last_look_s": (span[1] - rows[-1]["epoch_ms"]) / 1000,
        "map_entropy": -sum(w / sum(weight) * math.log(w / sum(weight)) for w in parts.values()) / math.log(20),
    }
    if dwell > 0:
        out |= {
            "reading_speed": 1000 * cells * 40 / dwell,
            "jump_back_rate": 60_000 * sum(s < -100 for s in steps) / dwell,
        }
    if moved:
        out["forward_share"] = sum(s > 0 for s in moved) / len(moved)
    times = [r["epoch_ms"] for r in rows]
    if len(rows) > 2 and len(set(place)) > 1 and len(set(times)) > 1:
        out["progress"] = statistics.correlation(times, place)
    return out


def our_text(text):
    return {
        "characters": len(text),
        "words": len(re.findall(r"\S+", text)),
        "list_items": len(re.findall(r"(?m)^\s*(?:[-*\u2022]|\d+[.)])\s", text)),
        "bold": len(re.findall(r"\*\*[^*]+\*\*", text)),
        "digits": len(re.findall(r"\d", text)) / len(text),
        "paragraphs": text.count("\n") + 1,
    }


def our_clock(rows):
    """Where the time of one modality's rows of a query went; a moment of a pairwise task is a row of either side and
    counts half in each."""
    if not rows:
        return {}
    clock = [r["dt_ms"] if r["side"] == "single" else r["dt_ms"] / 2 for r in rows]
    text = sum(r["dt_ms"] for r in rows if r["char"] is not None)
    out = {"text_s": text / 1000}
    if sum(clock) > 0:
        out["text_share"] = min(text / sum(clock), 1.0)
    for name, phase in (("review_s", "reviewing"), ("idle_s", "idle"), ("compose_s", "composing")):
        out[name] = sum(c for r, c in zip(rows, clock) if r["phase"] == phase) / 1000
    return out


def our_order(rows, span):
    """Both answers of a pairwise query on one timeline: rows on their texts, in order of time."""
    out = {}
    if rows:
        out["switches"] = sum(a["side"] != b["side"] for a, b in zip(rows, rows[1:]))
        late = [r for r in rows if r["epoch_ms"] >= span[1] - 0.25 * (span[1] - span[0])]
        left, right = (sum(r["dt_ms"] for r in late if r["side"] == side) for side in ("left", "right"))
        if left + right > 0:
            out["late_share"] = (left - right) / (left + right)
    return out


def together(gaze, mouse, start):
    """Gaze and mouse rows of a query on its texts: how near they are at one moment, and which follows which."""
    out, at = {}, {}
    for r in mouse:
        at.setdefault(r["epoch_ms"], []).append(r)
    moments = [(g, m) for g in gaze for m in at.get(g["epoch_ms"], [])]
    if moments:
        same = [abs(g["char"] - m["char"]) for g, m in moments if g["side"] == m["side"]]
        out["gaze_mouse_together_share"] = len(same) / len(moments)
        if same:
            out["gaze_mouse_distance"] = statistics.median(same)
    steps = []
    for rows in (gaze, mouse):
        cells = {}
        for r in rows:
            cells.setdefault((r["side"], (r["epoch_ms"] - start) // 500), []).append(r["char"] / r["length"])
        steps.append({cell: mean(places) for cell, places in cells.items()})
    found = {}
    for lag in sorted(range(-6, 7), key=lambda lag: (abs(lag), lag)):
        pairs = [
            (place, steps[1][side, step + lag])
            for (side, step), place in steps[0].items()
            if (side, step + lag) in steps[1]
        ]
        if len(pairs) >= 8 and all(statistics.stdev(v) > 1e-9 for v in zip(*pairs)):
            found[lag] = statistics.correlation(*zip(*pairs))
    if 0 in found:
        out["gaze_mouse_correlation"] = found[0]
    if found:
        out["gaze_mouse_lag_s"] = max(found, key=lambda lag: round(found[lag], 9)) / 2
    return out


def page_motion(page, span, width):
    """How gaze and pointer moved on the page: rows of a task's page-absolute files."""
    out = {}
    for modality in ("gaze", "mouse"):
        rows = sorted(
            (r for r in page if r["modality"] == modality and r["x"] is not None and not math.isnan(r["x"])),
            key=lambda r: (r["epoch_ms"], r["row"]),
        )
        steps = [None] + [math.sqrt((b["x"] - a["x"]) ** 2 + (b["y"] - a["y"]) ** 2) for a, b in zip(rows, rows[1:])]
        own = [(r, step) for r, step in zip(rows, steps) if inside(r, span)]
        steps = [step for _, step in own if step is not None]
        if modality == "mouse" and own:
            if width is not None:
                out["mouse_travel"] = 60 * sum(steps) / ((span[1] - span[0]) / 1000) / width
            if steps:
                out["mouse_still_share"] = mean([float(step == 0) for step in steps])
        if modality == "gaze" and own and width is not None:
            out["gaze_off_page_share"] = mean([float(r["x"] < 0 or r["y"] < 0 or r["x"] > width) for r, _ in own])
            if steps:
                out["gaze_step"] = statistics.median(steps) / width
    return out


def reading(sentences):
    """The measures of one answer's sentences, as of the whole answer."""
    count, dwell = sum(s["fixations"] for s in sentences), sum(s["dwell_ms"] for s in sentences)
    out = {
        "fixations": count,
        "first_pass_s": sum(s["first_pass_ms"] for s in sentences) / 1000,
        "skipped_share": mean([s["skipped"] for s in sentences]),
    }
    if count > 0:
        out |= {"fixation_ms": dwell / count, "regression_share": sum(s["regressions_out"] for s in sentences) / count}
    if dwell > 0:
        out["reread_share"] = sum(s["reread_ms"] for s in sentences) / dwell
    return out


def contrast(a, b):
    return {} if a is None or b is None or a + b <= 0 else {"": (a - b) / (a + b)}


def of_texts(query):
    """What is known of a query without any sample."""
    answers = [query["response_1"]] + ([query["response_2"]] if query["mode"] == "pairwise" else [])
    out = {"user_query_length": len(query["question"])}
    for n, (side, text) in enumerate(zip(("left", "right"), answers), 1):
        out[f"response_length_{side}"] = len(text)
        out |= {f"text_{k}_{n}": v for k, v in our_text(text).items()}
    if query["mode"] == "pairwise":
        out["text_length_log_ratio"] = math.log(len(answers[0]) / len(answers[1]))
        out |= {f"text_{k}_diff": out[f"text_{k}_1"] - out[f"text_{k}_2"] for k in our_text(answers[0])}
    return out


def of_window(rows, page, query, span, cut, width, measures):
    """All features of one query in one window; `cut` is None where the study takes its whole recording.
    Rows are the task's, matched and with phases."""
    pairwise = query["mode"] == "pairwise"
    sides = {"left": "A", "right": "B"} if pairwise else {"single": "A"}
    out, green, entries, texts = {"window_s": (span[1] - span[0]) / 1000}, 0, 0, {}
    for m in ("gaze", "mouse"):
        files = {side: [r for r in rows if r["modality"] == m and r["side"] == side] for side in sides}
        for side, letter in sides.items():
            out |= {f"response_{letter}_{m}_{k}": v for k, v in study_answer(files[side], query, side, cut).items()}
            metrics, n = study_metrics(files[side], query, cut)
            out |= {f"{m}_{k}_{'right' if side == 'right' else 'left'}": v for k, v in metrics.items()}
            if metrics:
                out[f"{m}_max_idx_ratio_{'right' if side == 'right' else 'left'}"] = metrics["max_idx"] / len(
                    text_of(query, side)
                )
                if m == "gaze":
                    green, entries = green + n, entries + metrics["total_entries"]
            text = [
                r for r in files[side] if r["query"] == query["query"] and r["char"] is not None and inside(r, span)
            ]
            response = 2 if side == "right" else 1
            out |= {f"{m}_{k}_{response}": v for k, v in our_answer(text, span, len(text_of(query, side))).items()}
        own = [r for side in sides for r in files[side] if r["query"] == query["query"] and inside(r, span)]
        out |= {f"{m}_{k}": v for k, v in our_clock(own).items()}
        if m == "gaze" and any(r["flag"] is not None for r in own):
            out["gaze_head_ok_share"] = mean([float(r["flag"]) for r in own if r["flag"] is not None])
        texts[m] = sorted((r for r in own if r["char"] is not None), key=lambda r: (r["epoch_ms"], r["row"]))
        if not pairwise:
            out |= {f"{m}_{k}": v for k, v in study_pointwise(files["single"], query, cut).items()}
            continue
        phases = study_pairwise(files["left"], files["right"], cut)
        out |= {f"{m}_{k}": v for k, v in phases.items()}
        for stem, name in (
            ("reviewing_engaged_time_s", "reviewing_time"),
            ("reviewing_active_ratio", "reviewing_activity"),
            ("composing_lookback_time_s", "composing_lookback"),
        ):
            if f"left_{stem}" in phases and f"right_{stem}" in phases:
                left, right = phases[f"left_{stem}"], phases[f"right_{stem}"]
                out |= {
                    f"{m}_comparison_{name}_ratio": capped(left, right),
                    f"{m}_comparison_{name}_diff": left - right,
                }
        for stem, name in (
            ("reviewing_engaged_time_s", "longer_reviewing"),
            ("reviewing_active_ratio", "more_active_reviewing"),
            ("max_char_position_reached", "read_further"),
        ):
            if f"left_{stem}" in phases and f"right_{stem}" in phases:
                out[f"{m}_comparison_which_side_{name}"] = 1 if phases[f"left_{stem}"] > phases[f"right_{stem}"] else -1
        out |= {f"{m}_{k}": v for k, v in our_order(texts[m], span).items()}
        if out.get(f"{m}_text_s", 0) > 0 and f"{m}_switches" in out:
            out[f"{m}_switch_rate"] = 60 * out[f"{m}_switches"] / out[f"{m}_text_s"]
        for name, stem in (("dwell_share", "dwell_s"), ("dwell_per_char_share", "dwell_per_char_ms")):
            out |= {
                f"{m}_{name}{k}": v for k, v in contrast(out.get(f"{m}_{stem}_1"), out.get(f"{m}_{stem}_2")).items()
            }
        for name, stem in (("first_side", "first_look_s"), ("last_side", "last_look_s")):
            if f"{m}_{stem}_1" in out and f"{m}_{stem}_2" in out:
                later = out[f"{m}_{stem}_2"] - out[f"{m}_{stem}_1"]
                out[f"{m}_{name}"] = (later > 0) - (later < 0)
    out |= together(texts["gaze"], texts["mouse"], span[0]) | page_motion(page, span, width)
    for response in (1, 2):
        sentences = [s for s in measures if s["query"] == query["query"] and s["response"] == response]
        if sentences:
            out |= {f"gaze_{k}_{response}": v for k, v in reading(sentences).items()}
    if pairwise:
        out |= {
            name[:-2] + "_diff": value - out[name[:-2] + "_2"]
            for name, value in out.items()
            if name.endswith("_1") and name[:-2] + "_2" in out
        }
    if entries:
        out |= {"camera_green": green, "camera_green_ratio": green / entries}
    if pairwise:
        for side in sides:
            if {f"gaze_{side}_reviewing_engaged_time_s", f"mouse_{side}_reviewing_engaged_time_s"} <= set(out):
                out[f"cross_modality_{side}_reviewing_duration_ratio_gaze_mouse"] = capped(
                    out[f"gaze_{side}_reviewing_engaged_time_s"], out[f"mouse_{side}_reviewing_engaged_time_s"]
                )
        gaze, mouse = out.get("gaze_comparison_reviewing_time_ratio"), out.get("mouse_comparison_reviewing_time_ratio")
        if gaze is not None and mouse is not None:
            out["cross_modality_preference_agreement_gaze_mouse"] = (
                1 if (gaze > 1 and mouse > 1) or (gaze < 1 and mouse < 1) else -1
            )
    elif "gaze_reviewing_duration_s" in out and "mouse_reviewing_duration_s" in out:
        for p in ("reviewing", "composing"):
            out[f"cross_modality_{p}_duration_ratio_gaze_mouse"] = capped(
                out[f"gaze_{p}_duration_s"], out[f"mouse_{p}_duration_s"]
            )
            out[f"cross_modality_{p}_activity_ratio_gaze_mouse"] = capped(
                out[f"gaze_{p}_active_ratio"], out[f"mouse_{p}_active_ratio"]
            )
    return out


def features(rows, page, queries, cuts, width, measures, studys):
    """All features of one task's queries: {(query, window): {name: value}}; a feature that is not defined is not there.

    rows, page : dicts of the task's samples, text-relative (already through `match` and `add_phases`) and page-absolute
    queries : dicts of the task's queries
    cuts : dicts of the windows of its queries
    width : of the page, or None
    measures : dicts of the reading measures of its sentences
    studys : names of the study's features, which the next query of a pointwise task repeats
    """
    spans = {(cut["query"], cut["window"]): (cut["start_ms"], cut["end_ms"]) for cut in cuts}
    out, before = {}, None
    for query in sorted(queries, key=lambda q: q["turn"]):
        texts = of_texts(query)
        for window in ("reading", "full", "rating"):
            found = dict(texts)
            span = spans.get((query["query"], window))
            if span is not None:
                found |= of_window(
                    rows,
                    page,
                    query,
                    span,
                    None if window == "full" else span,
                    width,
                    measures if window == "reading" else [],
                )
            elif window == "full":
                found |= of_window(rows, [], query, (0, 0), None, None, [])  # nothing of ours
                del found["window_s"]
            if query["mode"] == "pointwise" and before is not None and before["turn"] == query["turn"] - 1:
                earlier = out[before["query"], window]
                found |= {f"prev_{k}": v for k, v in earlier.items() if k in studys and not k.startswith("prev_")}
                for stem in (
                    "text_characters",
                    *(
                        f"{m}_{k}"
                        for m in ("gaze", "mouse")
                        for k in ("dwell_s", "dwell_per_char_ms", "coverage", "reading_speed")
                    ),
                ):
                    if f"{stem}_1" in found and f"{stem}_1" in earlier:
                        found[f"{stem}_change"] = found[f"{stem}_1"] - earlier[f"{stem}_1"]
            out[query["query"], window] = found
        before = query
    return out
