#!/usr/bin/env python3
"""What sharing experts over layers, and choosing them one layer early, costs in quality: trains Megrez2's
architecture and its controls on the same problems in the same order, with several seeds, and prints the loss
on held-out problems and the share of them that each model solves.

  python3 tools/moe_quality.py --jobs 2 --threads 1          # examples/train/megrez2-quality.json
  python3 tools/moe_quality.py --config examples/train/reasoner-megrez.json --set device=cuda

  shared         the configuration: groups of layers share their experts, gates read the layer before
  no pre-gate    the same, but gates read their own layer's input
  unshared       as many stored parameters and as many active ones: each layer has its part of a group's experts
  unshared, all  each layer has as many experts as a group: more stored parameters
  dense          as many stored parameters, all of them active

Runs that are finished stay in --out and are not repeated."""
import argparse, concurrent.futures, json, pathlib, re, statistics, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def read_config(arguments):
    """The configuration with defaults, as the trainer reads it (which names what is wrong)."""
    command = [arguments.weft, "train", "lm", arguments.config, "--print-config"]
    for setting in arguments.set:
        command += ["--set", setting]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if printed.returncode:
        sys.exit(printed.returncode)
    return json.loads(re.sub(r"\s// .*", "", printed.stdout))


def level_of(config):
    """The level of the problems that are held out first; none where that is other data."""
    found = re.match(r"task:reason\?.*\blevel=([^&,]+)", config["eval"][0] if config["eval"] else "")
    return found[1] if found else "none"


def variants(model):
    """Settings of each model, by its name in the table."""
    layers, dense = model["num_hidden_layers"], model["first_k_dense_replace"]
    group, experts = model["experts_shared_frequency"], model["n_routed_experts"]
    mixtures = layers - dense
    if model["architecture"] != "megrez2" or not experts:
        sys.exit("moe_quality: the configuration's model has to be a megrez2 with experts")
    if mixtures % group or experts % group:
        sys.exit(f"moe_quality: layers after the dense ones ({mixtures}) and experts ({experts}) have to be "
                 f"multiples of experts_shared_frequency ({group})")
    # All rows of all MLPs, in equal parts; quantised rows want a multiple of 32.
    rows = dense * model["intermediate_size"] + model["moe_intermediate_size"] * (
        mixtures // group * experts + mixtures * model["n_shared_experts"])
    return {
        "shared": [],
        "no pre-gate": ["model.pre_gate=false"],
        "unshared": ["model.experts_shared_frequency=1", f"model.n_routed_experts={experts // group}"],
        "unshared, all": ["model.experts_shared_frequency=1"],
        "dense": ["model.architecture=llama", "model.n_routed_experts=0",
                  f"model.intermediate_size={round(rows / layers / 32) * 32}"],
    }


def run(command, log):
    with open(log, "a") as out:
        if subprocess.run(command, stdout=out, stderr=out, cwd=ROOT).returncode:
            raise RuntimeError(f"{' '.join(map(str, command))} failed: see {log}")


def one_run(arguments, name, settings, seed):
    """(parameters, loss, share of right answers)"""
    folder = arguments.out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    log, scores = folder.with_suffix(".txt"), folder.with_suffix(".json")
    if not scores.exists():
        command = [arguments.weft, "train", "lm", arguments.config, "--set", f"out={folder}", "--set", f"seed={seed}"]
        for setting in arguments.set + settings + [f"threads={arguments.threads}"]:
            command += ["--set", setting]
        if any(folder.glob("checkpoint-*.weft")):
            command.append("--resume")
        run(command, log)
        if arguments.level == "none":
            scores.write_text("{}\n")
        else:
            threads = ["--threads", str(arguments.threads)] if arguments.threads else []
            run([arguments.weft, "eval", "reason", folder / "model.gguf", "--level", arguments.level, "--problems",
                 str(arguments.problems), "--json", scores] + threads, log)
    losses = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines() if "eval_loss" in line]
    # The model that was written is the one with the lowest loss on the first held-out data.
    loss = min(entry["eval_loss"] for entry in losses if entry["eval_name"] == losses[0]["eval_name"])
    inspected = json.loads(subprocess.run([arguments.weft, "inspect", "--json", folder / "model.gguf"],
                                          check=True, capture_output=True, cwd=ROOT).stdout)
    print(f"{name}, seed {seed}: loss {loss:.4f}", file=sys.stderr)
    right = json.loads(scores.read_text()).get("summary", {"": None})
    return inspected["parameters"], loss, next(iter(right.values()))


def spread(values, format):
    return f"{format % statistics.mean(values)} ({format % min(values)} to {format % max(values)})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weft", default=ROOT / "build/release/weft")
    parser.add_argument("--config", type=pathlib.Path, default=ROOT / "examples/train/megrez2-quality.json")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all runs")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/moe-quality")
    parser.add_argument("--only", nargs="*", help="of the models, those with these names")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--level", help="of the problems that are solved; without: that of the first held-out data")
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=0, help="of a run; 0: all")
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    arguments.config = arguments.config.resolve()
    config = read_config(arguments)
    models = variants(config["model"])
    arguments.level = arguments.level or level_of(config)
    unknown = set(arguments.only or []) - set(models)
    if unknown:
        parser.error(f"--only {sorted(unknown)[0]!r}: choose from {', '.join(models)}")
    models = {name: models[name] for name in arguments.only or models}
    seeds = range(1, arguments.seeds + 1)
    pool = concurrent.futures.ThreadPoolExecutor(arguments.jobs)
    runs = {(name, seed): pool.submit(one_run, arguments, name, models[name], seed)
            for seed in seeds for name in models}
    try:  # whichever ends first, so that a run that fails ends all
        for future in concurrent.futures.as_completed(runs.values()):
            future.result()
    except (RuntimeError, KeyboardInterrupt) as error:
        pool.shutdown(cancel_futures=True)
        sys.exit(f"moe_quality: {str(error) or 'stopped'}. The same command goes on from here.")
    results = {key: future.result() for key, future in runs.items()}
    print("| model | parameters | loss on held-out problems | solved |\n| --- | --- | --- | --- |")
    for name in models:
        parameters, losses, solved = zip(*(results[name, seed] for seed in seeds))
        right = "" if solved[0] is None else f"{spread([100 * share for share in solved], '%.1f')} %"
        print(f"| {name} | {parameters[0]:,} | {spread(losses, '%.4f')} | {right} |")


if __name__ == "__main__":
    main()
