"""Files of record say what made them."""

import json
import math
from collections import Counter
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "results"
# Files from before there was a number of the format, see results/README.md: none may be added
WITHOUT = {"accuracy": 114, "real": 40, "started": 1, "table1": 34, "tables": 15}


def read():
    for file in sorted(RESULTS.glob("*/*.json")):
        yield file, json.loads(file.read_text(encoding="utf-8"))


def test_no_new_file_lacks_a_number_of_the_format():
    assert Counter(file.parent.name for file, r in read() if "schema" not in r) == WITHOUT


def test_files_with_a_number_of_the_format_have_what_it_promises():
    for file, result in read():
        if "schema" in result:
            assert {"commit", "versions"} <= set(result), file
            assert {"seed", "seeds"} & set(result), file
            trained = result.get("method", "").startswith("CPVAE")
            fits = result.get("fits", []) if trained else [result] if "epochs" in result else []
            folds = 5 if file.parent.name == "draws" else 1  # a score is of so many fits
            assert not trained or len(fits) == folds * len(result["scores"]), file
            assert all({"recipe", "curve"} <= set(fit) for fit in fits), file


def test_no_bound_lies_above_the_likelihood_by_more_than_their_noise():
    measured = 0
    for file, result in read():
        if "log_likelihood_noise_se_nats" in result:
            names = {"elbo_exact_nats", "elbo_nats"} & set(result)
            noise = math.hypot(*(v for k, v in result.items() if k.endswith("_noise_se_nats")))
            assert result[names.pop()] < result["log_likelihood_nats"] + 4 * noise, file
            if truth := result.get("true_log_density_nats"):
                assert result["log_likelihood_nats"] < truth + 4 * noise, file
            measured += 1
    assert measured >= 14


def test_the_soaks_found_no_faults():
    soaks = [result for file, result in read() if file.parent.name == "soak"]
    assert len(soaks) == 3
    for result in soaks:
        assert result["faults"] == 0, result["name"]
        assert result["tries"] == sum(of["tries"] for of in result["of_kind"].values())
