"""The metrics run where neither JAX nor TensorFlow is, and write to no stream."""

import pkgutil
import subprocess
import sys

import psdiff_jax.evaluation.evaluate
import psdiff_jax.evaluation.protocols


def test_evaluation_imports_no_accelerator_library():
    packages = pkgutil.walk_packages(psdiff_jax.evaluation.__path__, "psdiff_jax.evaluation.")
    names = [module.name for module in packages]
    code = (
        f"import sys, {', '.join(names)}; print([m for m in sys.modules if m in ('jax', 'flax', 'tensorflow', 'PIL')])"
    )
    assert len(names) > 10
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_evaluation_prints_nothing(make, capfd):
    case = make.random_case(5)
    protocols = psdiff_jax.evaluation.protocols.make_protocols(["whole", "sized"], case.annotations, case.queries)
    psdiff_jax.evaluation.evaluate.evaluate(
        {1: (case.gallery, case.query)}, case.annotations, case.queries, protocols, reranking=["cbgm:5,3"]
    )
    assert capfd.readouterr() == ("", "")
