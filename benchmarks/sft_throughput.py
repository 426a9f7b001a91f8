"""Supervised fine-tuning of a LoRA adapter: logical tokens a second, peak memory and losses, TRL's trainer and ours.

Every arm trains one epoch over the same rows, each in a process of its own, the arms taking turns so that the noise of
the machine hits all; medians and their ratios are reported. What TRL is given is in `peers.py`, what rows there are in
`sft_rows.py`. Ours is `AgentSFTTrainer` with its defaults.

That all compute the same is shown by a further run in float32: ours, then TRL from the same adapter over the same rows
in the order that ours shuffled them into. Both losses are means over the trained tokens of a step. (TRL as it comes
stands for both of its arms: checkpointing does not change a loss, and it is the one that fits in memory.)

Run with the package's `bench` extra:

    python benchmarks/sft_throughput.py --data fireact --fireact gpt_hotpotqa_multimethod.jsonl
    python benchmarks/sft_throughput.py --data shared-prefix
    python benchmarks/sft_throughput.py --data shared-prefix --model qwen2.5-1.5b-random --row-tokens 3072   # GPU
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peers
import torch
from common import WARM_UP_STEPS, Job, report
from sft_rows import Row, desk_rows, facts, fireact_rows

from sage.libs.finetune.agent.models.embedded import EMBEDDED, cache_dir
from sage.libs.finetune.agent.models.load import load_tokenizer, resolve_model

ARMS = ("trl", "trl-tuned", "ours")
BATCH_SIZES = {"fireact": 4, "shared-prefix": 8}
# Qwen2.5 with random weights: speed and memory depend on the shapes alone, and nothing is downloaded.
_COMMON = {"num_hidden_layers": 28, "max_position_embeddings": 32768, "rope_theta": 1e6}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-1.5b-random": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2,
        "vocab_size": 151936, "tie_word_embeddings": True, **_COMMON,
    },
    "qwen2.5-7b-random": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4,
        "vocab_size": 152064, "tie_word_embeddings": False, **_COMMON,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 49152, "tie_word_embeddings": True, **_COMMON, "num_hidden_layers": 2,
    },
}  # fmt: skip


def main() -> None:
    options = _options()
    model = random_model(options.model) if options.model in SHAPES else resolve_model(options.model)
    with tempfile.TemporaryDirectory(prefix="sft-throughput-") as place:
        folder = Path(place)
        rows = _rows(options, model, options.steps * options.batch_size)
        job = _job(options, model, rows, folder)
        runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in options.arms}
        for repeat in range(options.repeats):
            turn = repeat % len(options.arms)
            for arm in options.arms[turn:] + options.arms[:turn]:  # none always comes after the same
                runs[arm].append(_run(Job(**{**vars(job), "arm": arm, "folder": folder / f"{arm}-{repeat}"})))
        data = {"kind": options.data, **facts(rows, options.batch_size)}
        if options.data == "shared-prefix":
            data["tool_sets"] = options.tool_sets
        result = {
            "data": data,
            "model": options.model,
            "dtype": options.dtype,
            "batch_size": options.batch_size,
            "row_order": options.row_order,
            "steps": options.steps,
            "repeats": options.repeats,
            "warm_up_steps": WARM_UP_STEPS,
            "peer": f"trl {version('trl')}",
            "peer_settings": {arm: peers.settings(arm, job) for arm in options.arms if arm in peers.ARMS},
            "arms": {arm: _summary(found) for arm, found in runs.items()},
            "ratios": _ratios({arm: found for arm, found in runs.items() if "failed" not in found[-1]}),
        }
        if options.loss_steps:
            result["float32_losses"] = compare_losses(options, model, folder / "losses")
    _print_table(result)
    report(_name(options), result)


def compare_losses(options: argparse.Namespace, model: str, folder: Path) -> dict[str, Any]:
    """The losses of the first steps in float32 from the same adapter over the same rows in the same order."""
    folder.mkdir()
    rows = _rows(options, model, options.loss_steps * options.batch_size)
    job = _job(options, model, rows, folder)
    same = {**vars(job), "dtype": "float32", "row_order": "shuffled", "adapter": str(folder / "start.safetensors")}
    ours = _run(Job(**{**same, "arm": "ours", "folder": folder / "ours"}))
    if "failed" in ours:
        return {"ours": ours}
    peer = _run(Job(**{**same, "arm": "trl", "folder": folder / "trl", "order": ours["order"]}))
    if "failed" in peer:
        return {"trl": peer}
    differences = [abs(a - b) for a, b in zip(ours["losses"], peer["losses"], strict=True)]
    return {"trl": peer["losses"], "ours": ours["losses"], "largest_difference": max(differences)}


def random_model(name: str) -> str:
    """A folder with a Qwen2 model of random weights in bfloat16 and the embedded model's tokenizer, made once."""
    folder = cache_dir() / "benchmarks" / name
    if not (folder / "config.json").exists():
        code = f"import sft_throughput; sft_throughput._make_model({name!r}, {str(folder)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)  # leaves no memory taken
    return str(folder)


def _make_model(name: str, folder: str) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer, _ = load_tokenizer(EMBEDDED, tool_format="compact")
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPES[name], **special))
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def _rows(options: argparse.Namespace, model: str, count: int) -> list[Row]:
    tokenizer, _ = load_tokenizer(model, tool_format="compact")
    if options.data == "fireact":
        return fireact_rows(options.fireact, count, tokenizer, options.row_tokens)
    return desk_rows(count, options.tool_sets, tokenizer, options.row_tokens)


def _job(options: argparse.Namespace, model: str, rows: Sequence[Row], folder: Path) -> Job:
    tokens, samples = folder / "tokens.json", folder / "samples.jsonl"
    tokens.write_text(json.dumps([{name: row[name] for name in ("input_ids", "labels")} for row in rows]))
    samples.write_text("".join(json.dumps(row["sample"]) + "\n" for row in rows), encoding="utf-8")
    return Job(
        "", model, str(tokens), str(samples), folder, options.batch_size,
        "bfloat16" if options.dtype == "bf16" else "float32", options.row_order,
    )  # fmt: skip


def _run(job: Job) -> dict[str, Any]:
    """What the arm's process wrote, or why it failed; each row must have been trained on once and whole."""
    command = [sys.executable, str(Path(__file__).with_name("sft_arm.py")), str(job.write())]
    with (job.folder / "log.txt").open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=log).returncode
    if code:
        lines = (job.folder / "log.txt").read_text(errors="replace").strip().splitlines()
        print(f"{job.arm}: failed with exit code {code}", *lines[-5:], sep="\n  ", file=sys.stderr, flush=True)
        return {"failed": lines[-1] if lines else f"exit code {code}"}
    result: dict[str, Any] = json.loads((job.folder / "result.json").read_text())
    expected = sum(len(row["input_ids"]) for row in job.rows())
    if result["all_tokens"] != expected:
        raise RuntimeError(f"{job.arm} trained on {result['all_tokens']} tokens of {expected}; it is no fair run")
    speed = result["tokens"] / result["seconds"]
    print(f"{job.arm}: {speed:.1f} tokens/s, peak {result['peak_gb']:.2f} GB", file=sys.stderr, flush=True)
    return result


def _summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    failed = [run["failed"] for run in runs if "failed" in run]
    if failed:
        return {"failed": failed[0]}
    speeds = [run["tokens"] / run["seconds"] for run in runs]
    spread = {"median": statistics.median(speeds), "min": min(speeds), "max": max(speeds)}
    memory = {
        name: round(statistics.median(run[name] for run in runs), 3)
        for name in ("peak_gb", "peak_above_start_gb")
        if name in runs[0]
    }
    tokens_per_second = {name: round(value, 1) for name, value in spread.items()}
    return {"tokens_per_s": tokens_per_second, **memory, "losses_logged": runs[-1]["losses"]}


def _ratios(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Ours over each peer: speed (more is better) and peak memory (less is better), of the medians."""
    found = {arm: _summary(each) for arm, each in runs.items()}
    if "ours" not in found:
        return {}
    ours = found.pop("ours")
    return {
        arm: {
            "speed": round(ours["tokens_per_s"]["median"] / peer["tokens_per_s"]["median"], 2),
            **{
                name: round(ours[measured] / peer[measured], 2)
                for name, measured in (("peak_memory", "peak_gb"), ("peak_memory_above_start", "peak_above_start_gb"))
                if measured in ours
            },
        }
        for arm, peer in found.items()
    }


def _print_table(result: dict[str, Any]) -> None:
    lines = [f"{'arm':22} {'tokens/s':>8} {'(min - max)':>17} {'ours is':>8} {'peak GB':>8}"]
    for arm, found in result["arms"].items():
        if "failed" in found:
            lines.append(f"{arm:22} failed: {found['failed']}")
            continue
        speed, ratio = found["tokens_per_s"], result["ratios"].get(arm, {}).get("speed")
        spread = f"({speed['min']:.1f} - {speed['max']:.1f})"
        times = f"{ratio:.2f} x" if ratio else ""
        lines.append(f"{arm:22} {speed['median']:8.1f} {spread:>17} {times:>8} {found['peak_gb']:8.2f}")
    losses = result.get("float32_losses", {})
    if "largest_difference" in losses:
        lines.append(f"{'step':>4} {'trl':>10} {'ours':>10}   loss in float32, same rows, order and start")
        pairs = zip(losses["trl"], losses["ours"], strict=True)
        lines += [f"{step:4} {peer:10.6f} {ours:10.6f}" for step, (peer, ours) in enumerate(pairs, start=1)]
        lines.append(f"largest difference {losses['largest_difference']:.1e}")
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def _name(options: argparse.Namespace) -> str:
    """The file of the result: what differs from the plain run stands in it."""
    parts = ["sft_throughput", options.data.replace("-", "_")]
    if options.model != EMBEDDED:
        parts.append(Path(options.model).name)
    if options.batch_size != BATCH_SIZES[options.data]:
        parts.append(f"batch{options.batch_size}")
    if options.row_tokens is not None and options.model not in SHAPES:
        parts.append(f"rows{options.row_tokens}")
    if options.data == "shared-prefix" and options.tool_sets != 3:
        parts.append(f"sets{options.tool_sets}")
    if options.row_order != "shuffled":
        parts.append(options.row_order)
    if options.dtype != "bf16":
        parts.append(options.dtype)
    if tuple(options.arms) != ARMS:
        parts += options.arms
    if torch.cuda.is_available():
        parts.append("cuda")
    return "_".join(parts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(BATCH_SIZES), required=True)
    parser.add_argument("--fireact", type=Path, help="FireAct's gpt_*.jsonl or alpaca_*.json, for --data fireact")
    parser.add_argument("--tool-sets", type=int, default=3, choices=range(1, 5), help="prefixes, for shared-prefix")
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS), help="more are in peers.py")
    parser.add_argument("--model", default=EMBEDDED, help=f"{', '.join(SHAPES)}, or a model folder")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--row-order", choices=("shuffled", "grouped"), default="shuffled", help="of our trainer")
    parser.add_argument("--row-tokens", type=int, help="mean length of rows made longer")
    parser.add_argument("--batch-size", type=int, help="4 for fireact, 8 for shared-prefix")
    parser.add_argument("--steps", type=int, default=16, help=f"of an epoch, {WARM_UP_STEPS} of them to warm up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loss-steps", type=int, default=6, help="steps in float32 to compare losses; 0 for none")
    options = parser.parse_args()
    options.batch_size = options.batch_size or BATCH_SIZES[options.data]
    if options.data == "fireact" and (options.fireact is None or not options.fireact.exists()):
        parser.error("--data fireact needs --fireact FILE (github.com/anchen1011/FireAct, data/finetune)")
    if unknown := set(options.arms) - {*peers.ARMS, "ours"}:
        parser.error(f"unknown arm {', '.join(sorted(unknown))}; there are {', '.join(peers.ARMS)}, ours")
    for name, steps in (("--steps", options.steps), ("--loss-steps", options.loss_steps or WARM_UP_STEPS + 1)):
        if steps <= WARM_UP_STEPS:
            parser.error(f"{name} must be more than the {WARM_UP_STEPS} of the warm-up")
    return options


if __name__ == "__main__":
    main()
