"""Quality while serving, without labels: what searches tell, and what a second look at some of them shows."""
