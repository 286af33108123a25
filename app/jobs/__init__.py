"""Jobs: what users submit, workers run and the reconciler keeps moving."""
