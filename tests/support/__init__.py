"""What the tests share: a runtime driven from outside, bundles, root file systems, and the search for leaks."""
