from analysis.findings.text import decimals, rounded, with_interval


def test_rounded_to_what_the_interval_supports() -> None:
    assert rounded(0.71549, 0.686, 0.742) == "72"  # +- 2.8 points
    assert rounded(0.71549, 0.7064, 0.7244) == "71.5"  # +- 0.9
    assert rounded(0.71549, 0.7145, 0.7165) == "71.5"  # +- 0.1
    assert rounded(0.71549, 0.7150, 0.7160) == "71.55"  # +- 0.05
    assert rounded(1 / 3, 0.1, 0.6) == "33"
    assert with_interval(0.9254, 0.92, 0.93) == "92.5 (92.0 to 93.0)"
    assert with_interval(1.0, 0.9962, 1.0) == "100.0 (99.6 to 100.0)"
    assert decimals(0.3, 0.3) == 1
    assert decimals(0, 1e-9) == 3
