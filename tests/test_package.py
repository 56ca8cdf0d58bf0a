import subprocess
import sys


def test_functions_win_over_modules_of_the_same_name_in_any_order():
    code = (
        "import bayes_cannon.runs.run, bayes_cannon as bc\n"
        "from bayes_cannon.training.pipeline import train\n"
        "from bayes_cannon.analysis.catalogues import catalogue\n"
        "assert bc.train is train and bc.catalogue is catalogue\n"
        "assert all(getattr(bc, name) is not None for name in bc.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_refused():
    import bayes_cannon as bc

    assert not hasattr(bc, "no_such_name")
