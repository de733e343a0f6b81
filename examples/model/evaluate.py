#!/usr/bin/env python3
"""Asks the model in wordings that were kept out of training, and counts right replies.

    python evaluate.py                       with the JAX network, on the weights of the GGUF file
    python evaluate.py --chat PROGRAM        with llama.cpp: PROGRAM is the built chat example
    python evaluate.py --ask "What is MoE?"  prints one reply

A reply is right if it is, to the letter, the answer of the right block, and ends there.
"""

import argparse
import collections
import json
import os
import subprocess
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

from answer import Guide
from corpus import Corpus

SEED = 7
FILE = Path(__file__).parent / "moe-guide-q8_0.gguf"


def llama_says(program, model, case):
    """Whether the chat example gives the right reply; None if it cannot be asked that."""
    *system, (role, question) = case.messages
    if role != "user" or any(role != "system" for role, _ in system):
        return None
    command = [program, "--model", str(model), "--temp", "0", "--json", "--prompt", question]
    command += [part for _, text in system for part in ("--system", text)]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return json.loads(output)["reply"].strip() == case.answer


def main(options):
    guide = Guide(options.model)
    if options.ask:
        (reply,), _ = guide.replies([[("user", options.ask)]])
        print(reply)
        return
    cases = Corpus().held_out(SEED)
    if options.chat:
        right = [llama_says(options.chat, options.model, case) for case in cases]
    else:
        right = guide.say_all([(case.messages, case.answer) for case in cases])
    asked, known = collections.Counter(), collections.Counter()
    for case, ok in zip(cases, right):
        if ok is None:
            continue
        asked[case.kind] += 1
        known[case.kind] += ok
        if not ok and options.wrong:
            print(f"{case.kind}: {case.id}: {case.messages[-1][1]}")
    for kind in asked:
        print(f"{kind}: {known[kind]} of {asked[kind]} right, {known[kind] / asked[kind]:.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FILE)
    parser.add_argument("--chat", metavar="PROGRAM")
    parser.add_argument("--ask", metavar="QUESTION")
    parser.add_argument("--wrong", action="store_true", help="print the questions that were answered wrongly")
    main(parser.parse_args())
