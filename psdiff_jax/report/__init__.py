"""Pages, figures and tables of evaluated runs.

`run_page` (one run), `compare` (several, read by `runs`) and `validation_page` make HTML through `pages` and its
templates, from `tables`, `figures` (drawn by `plots`) and `rankings` (drawn by `drawing`). `terminal` makes plain text;
`naming` has the words; `predictions` draws images while a model trains.
"""
