"""Matching and features row by row in plain Python: slow, obvious, and the check of the fast ones.

One behaviour sample is a dict, one query is a dict; nothing is vectorised and nothing is shared with `ifllm`. The tests compare its numbers
with `ifllm.features` to 1e-9, and `benchmarks/features.py` compares the time per row.
"""

import math
import statistics

NOTICE = (
    "After you type your question, please wait patiently. It might take up to 1 minute for AI to finish generating their answer. "
    "The AI's response will show up here."
)
CAP_MS = 1000.0


def fits(text, window, index):
    """The study's rule: the snippet lies within 15 characters of the index, newlines as spaces."""
    def flat(s):
        return s.replace("\n", " ").replace("\r", " ")
    return flat(window) in flat(text)[max(0, index - 15):max(0, index + 15)]


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
            found = [q for q in queries if text_of(q, side) is not None and fits(text_of(q, side), row["window"], row["centre_idx"])] if known and not notice else []
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
        by_time = sorted(own, key=lambda r: (r["epoch_ms"], r["row"]))
        for row, after in zip(by_time, by_time[1:] + [None]):
            row["dt_ms"] = 0.0 if after is None else float(min(max(after["epoch_ms"] - row["epoch_ms"], 0), CAP_MS))
    return rows


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
    out = {"data_points": len(rows), "overall_attention_ratio": len(looks) / len(rows), "focused_engagement_time": engaged_ms(times),
           "focused_engagement_ratio": engaged_ms(times) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0,
           "normalized_avg_char_position": mean(share), "reading_completion_ratio": min(1.0, max(share)) if share else 0.0,
           "normalized_char_position_variance": statistics.variance(share) if len(share) > 1 else 0.0}
    for i in range(20):
        out[f"window_{i:03d}"] = 0.0
    if len(times) > 1 and times[-1] > times[0]:
        step = (times[-1] - times[0]) / 20
        for i in range(20):
            out[f"window_{i:03d}"] = mean([s for s, t in zip(share, times) if times[0] + i * step <= t < times[0] + (i + 1) * step])
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
    return {"total_entries": len(own), "onscreen_points": sum(r["on_element"] for r in own), "max_idx": max(index) if index else -1}, green


def study_pointwise(rows, query, span):
    """The phases of one pointwise query in one file."""
    known = [r for r in rows if r["query_study"] > 0]
    looks = [r for r in known if r["centre_idx"] is not None]
    order = sorted({r["query_study"] for r in known}, key=lambda q: (min(r["t_ms"] for r in known if r["query_study"] == q), q))
    own = [r["t_ms"] for r in looks if r["query_study"] == query["query"] and inside(r, span)]
    if not own:
        return {}
    place = order.index(query["query"])
    first, end = min(own), max(own)
    if place == len(order) - 1:
        end = max(r["t_ms"] for r in rows) if span is None else max(r["t_ms"] for r in known if r["query_study"] == query["query"] and inside(r, span))
    if place == 0:
        start = min(r["t_ms"] for r in rows)
    else:
        before = [r["t_ms"] for r in looks if r["query_study"] == order[place - 1] and r["t_ms"] < first]
        start = max(before) if before else first
    review = [r for r in rows if first <= r["t_ms"] <= end]
    compose = [r for r in rows if start <= r["t_ms"] < first]
    out = {"reviewing_duration_s": (end - first) / 1000, "composing_duration_s": (first - start) / 1000,
           "max_char_position_reached": max([r["centre_idx"] for r in review if r["centre_idx"] is not None] or [0])}
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
    out = {"composing_duration_s": (end - boundary) / 1000, "composing_pct": 100 * (end - boundary) / (end - start) if end > start else 0.0}
    for side, rows in sides.items():
        if not rows:
            continue
        review = [r for r in rows if r["t_ms"] < boundary]
        looked = [r for r in review if r["on_element"]]
        engaged = engaged_ms([r["t_ms"] for r in looked])
        back = engaged_ms([r["t_ms"] for r in rows if r["t_ms"] >= boundary and r["query_study"] == -1])
        out |= {f"{side}_reviewing_engaged_time_s": engaged / 1000, f"{side}_reviewing_engaged_pct": 100 * engaged / (end - start) if end > start else 0.0,
                f"{side}_reviewing_active_ratio": engaged / (boundary - start) if boundary > start else 0.0,
                f"{side}_reviewing_onscreen_ratio": len(looked) / len(review) if review else 0.0,
                f"{side}_reviewing_offscreen_ratio": 1 - (len(looked) / len(review) if review else 0.0), f"{side}_reviewing_entries": len(looked),
                f"{side}_max_char_position_reached": max([r["centre_idx"] if r["centre_idx"] is not None else -1 for r in looked] or [0]),
                f"{side}_composing_lookback_time_s": back / 1000, f"{side}_composing_lookback_ratio": back / (end - boundary) if end > boundary else 0.0}
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
    out = {"dwell_s": dwell / 1000, "dwell_per_char_ms": dwell / length, "coverage": cells / math.ceil(length / 40), "depth": max(place), "position_mean": centre,
           "position_sd": math.sqrt(sum((p - centre) ** 2 * w for p, w in zip(place, weight)) / sum(weight)), "first_position": place[0], "last_position": place[-1],
           "head_share": sum(w for p, w in zip(place, weight) if p < 0.2) / sum(weight), "tail_share": sum(w for p, w in zip(place, weight) if p >= 0.8) / sum(weight),
           "visits": sum(new), "visit_s": dwell / 1000 / sum(new), "first_look_s": (rows[0]["epoch_ms"] - span[0]) / 1000, "last_look_s": (span[1] - rows[-1]["epoch_ms"]) / 1000,
           "map_entropy": -sum(w / sum(weight) * math.log(w / sum(weight)) for w in parts.values()) / math.log(20)}
    if dwell > 0:
        out |= {"reading_speed": 1000 * cells * 40 / dwell, "jump_back_rate": 60_000 * sum(s < -100 for s in steps) / dwell}
    if moved:
        out["forward_share"] = sum(s > 0 for s in moved) / len(moved)
    times = [r["epoch_ms"] for r in rows]
    if len(rows) > 2 and len(set(place)) > 1 and len(set(times)) > 1:
        out["progress"] = statistics.correlation(times, place)
    return out


def features(rows, queries, spans, query, window):
    """All that this file knows of one query in one window; `rows` and `queries` are the whole task's, already matched."""
    full = window == "full"
    span = spans[query["query"]][window]
    cut = None if full else span
    pairwise = query["mode"] == "pairwise"
    sides = {"left": "A", "right": "B"} if pairwise else {"single": "A"}
    out, green, entries = {}, 0, 0
    for m in ("gaze", "mouse"):
        files = {side: [r for r in rows if r["modality"] == m and r["side"] == side] for side in sides}
        for side, letter in sides.items():
            out |= {f"response_{letter}_{m}_{k}": v for k, v in study_answer(files[side], query, side, cut).items()}
            metrics, n = study_metrics(files[side], query, cut)
            out |= {f"{m}_{k}_{'right' if side == 'right' else 'left'}": v for k, v in metrics.items()}
            if metrics:
                out[f"{m}_max_idx_ratio_{'right' if side == 'right' else 'left'}"] = metrics["max_idx"] / len(text_of(query, side))
                if m == "gaze":
                    green, entries = green + n, entries + metrics["total_entries"]
            text = [r for r in files[side] if r["query"] == query["query"] and r["char"] is not None and inside(r, span)]
            response = 2 if side == "right" else 1
            out |= {f"{m}_{k}_{response}": v for k, v in our_answer(text, span, len(text_of(query, side))).items()}
        if pairwise:
            phases = study_pairwise(files["left"], files["right"], cut)
            out |= {f"{m}_{k}": v for k, v in phases.items()}
            for stem, name in (("reviewing_engaged_time_s", "reviewing_time"), ("reviewing_active_ratio", "reviewing_activity"), ("composing_lookback_time_s", "composing_lookback")):
                if f"left_{stem}" in phases and f"right_{stem}" in phases:
                    left, right = phases[f"left_{stem}"], phases[f"right_{stem}"]
                    out |= {f"{m}_comparison_{name}_ratio": capped(left, right), f"{m}_comparison_{name}_diff": left - right}
            for stem, name in (("reviewing_engaged_time_s", "longer_reviewing"), ("reviewing_active_ratio", "more_active_reviewing"), ("max_char_position_reached", "read_further")):
                if f"left_{stem}" in phases and f"right_{stem}" in phases:
                    out[f"{m}_comparison_which_side_{name}"] = 1 if phases[f"left_{stem}"] > phases[f"right_{stem}"] else -1
            seen = sorted((r for side in sides for r in files[side] if r["query"] == query["query"] and r["char"] is not None and inside(r, span)), key=lambda r: (r["epoch_ms"], r["row"]))
            if seen:
                out[f"{m}_switches"] = sum(a["side"] != b["side"] for a, b in zip(seen, seen[1:]))
            a, b = out.get(f"{m}_dwell_s_1"), out.get(f"{m}_dwell_s_2")
            if a is not None and b is not None:
                out |= {f"{m}_dwell_s_diff": a - b} | ({f"{m}_dwell_share": (a - b) / (a + b)} if a + b > 0 else {})
                first = out[f"{m}_first_look_s_2"] - out[f"{m}_first_look_s_1"]
                out[f"{m}_first_side"] = (first > 0) - (first < 0)
        else:
            out |= {f"{m}_{k}": v for k, v in study_pointwise(files["single"], query, cut).items()}
    if entries:
        out |= {"camera_green": green, "camera_green_ratio": green / entries}
    if pairwise and {"gaze_left_reviewing_engaged_time_s", "mouse_left_reviewing_engaged_time_s"} <= set(out):
        out["cross_modality_left_reviewing_duration_ratio_gaze_mouse"] = capped(out["gaze_left_reviewing_engaged_time_s"], out["mouse_left_reviewing_engaged_time_s"])
        gaze, mouse = out.get("gaze_comparison_reviewing_time_ratio"), out.get("mouse_comparison_reviewing_time_ratio")
        if gaze is not None and mouse is not None:
            out["cross_modality_preference_agreement_gaze_mouse"] = 1 if (gaze > 1 and mouse > 1) or (gaze < 1 and mouse < 1) else -1
    if not pairwise and "gaze_reviewing_duration_s" in out and "mouse_reviewing_duration_s" in out:
        for p in ("reviewing", "composing"):
            out[f"cross_modality_{p}_duration_ratio_gaze_mouse"] = capped(out[f"gaze_{p}_duration_s"], out[f"mouse_{p}_duration_s"])
            out[f"cross_modality_{p}_activity_ratio_gaze_mouse"] = capped(out[f"gaze_{p}_active_ratio"], out[f"mouse_{p}_active_ratio"])
    out |= {"response_length_left": len(query["response_1"]), "user_query_length": len(query["question"]), "text_characters_1": len(query["response_1"]),
            "window_s": (span[1] - span[0]) / 1000}
    if not pairwise:
        before = [q for q in queries if q["turn"] == query["turn"] - 1]
        if before:
            if before[0]["query"] in spans:
                earlier = features(rows, [q for q in queries if q["turn"] < query["turn"]], spans, before[0], window)
                out |= {f"prev_{k}": v for k, v in earlier.items() if not k.startswith("prev_")}
    return out
