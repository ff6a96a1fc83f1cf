"""From the composed Hydra config to checked, typed settings.

fields        the types of single values, each with the words for what it allows
targets       what a config names by _target_, with the arguments that are known
custom        where a user's own class failed
command_line  what is typed, and the config files that it chooses from
schema        the settings of a run as pydantic models; `check`
commands      the settings of the commands beside run.py
messages      one sentence for every mistake that pydantic, Hydra or OmegaConf reports
help          what --help tells of the settings
completion    what Tab offers
identity      which keys define an experiment; its hash, its name, and how two of them differ
"""
