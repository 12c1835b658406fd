"""What C-MOVE and C-GET share: which instances, in which transfer syntax, read ahead, sent, counted."""
