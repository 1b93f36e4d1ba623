"""Questions for passages from a chat model: training pairs and evaluation sets for collections without labels.

Answers are paid for, so the journal of answers is the truth; pairs and evaluation sets are made from it anew each time.
"""
