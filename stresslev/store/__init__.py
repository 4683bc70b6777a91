"""Stores: folders of runs, with a manifest for each, and with the finished scenarios of runs that were not finished."""
