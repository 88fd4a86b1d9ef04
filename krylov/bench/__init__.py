"""What ``krylov bench`` measures: kernels, iterations and whole solves, each as a ratio taken in one interleaved run.

A figure compares two contestants that ran turn by turn in one process, with the same number of threads, so that both
meet the same disturbances. The best turn of each counts: what disturbs a measurement only ever adds time.
"""
