"""Removes what a terminated EC2 instance left in Route 53, Chef and Consul, and nothing else.

``handler`` handles one event from beginning to end. ``steps`` holds one folder for each clean-up step. ``clients``
talks to AWS, Chef and Consul.
"""
