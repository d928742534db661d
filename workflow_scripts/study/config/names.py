"""Names that a config may use beyond those that it defines."""

# What a table row may name as `init` besides initialisations and pretraining runs.
BASELINES = ("majority", "texture")
SYNTHETIC_SETS = ("synthetic", "filtered")
LABELLED_SET = "labelled"
# Columns of the manifest, and of the index where the manifest has them, that group frames by where they come from.
GROUPS = ("device", "scanner", "centre")
TABLES = ("table1", "table1_protocols", "table2", "table3", "table4", "table5")

# What URLs begin with from which files are fetched.
SCHEMES = ("https", "file")
