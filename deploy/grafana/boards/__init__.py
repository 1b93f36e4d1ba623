"""The dashboards, in a form that can be read: `python -m deploy.grafana.boards` writes their JSON anew.

panels.py      the kinds of panels, and what Grafana wants to know of each
board.py       a board of rows of panels, laid out on the grid
colours.py     warm is waiting, cool is work
overview.py    which stage is slow, and why
quality.py     whether answers got worse
ingest.py      what comes in, and until when it can be found
"""
