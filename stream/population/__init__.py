"""Finds faults and campaigns, which concern many users at once: it counts users with a sign, in each partition."""
