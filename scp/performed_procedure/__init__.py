"""Modality Performed Procedure Steps (PS3.4 Annex F): what modalities report of their work."""
