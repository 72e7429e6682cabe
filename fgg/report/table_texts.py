"""What the pages of tables say above the table and about its columns."""

from __future__ import annotations

ABOUT = {
    "summary": (
        "A row per dataset, seed, experiment, metric and fill, on the measurable images and on all (`stratum`). `difference` is "
        "experiment minus baseline on the same images, in the metric's own direction; `improvement_pct` and `effect_size` are "
        "positive if the experiment is better. Orange: significantly better; purple: significantly worse."
    ),
    "hypotheses": (
        "Every gate by activation × gradient (`experiment`) against what could explain its effect (`against`), with a "
        "verdict in words. *p* from the paired t-test; Holm over the metrics and these rows together (`family`), within a "
        "dataset, seed, stratum and fill."
    ),
    "methods": (
        "A row per experiment: its passes per image, and its mean by every metric on the measurable images. A `ceiling` is built "
        "from what a metric measures; the `floor` is random; a `reference` is a map of known content. `completeness_residual` is "
        "what the attributions of a method that should add up to a difference of logits lack to it (mean absolute value)."
    ),
    "judged": (
        "Planted images: how often a metric gives the map that points at the cue a better score than the map that points at the "
        "decoy, on images on which the model uses the cue. 1: always right; 0.5: a guess."
    ),
    "decomposition": (
        "What the order of the patches and the spread of the values give to each gate's gain over TransMM: the gate's order with "
        "TransMM's values, and TransMM's order with the gate's values. `order` and `values` are Shapley values, each the mean of "
        "the change made first and last; positive is better."
    ),
    "agreement": (
        "Spearman correlation of two metrics over the experiments (`over_methods`, of their means) and over the images "
        "(`over_images`, of the gains over the baseline, mean over experiments). 1: they rank alike; 0: they have nothing to do "
        "with each other."
    ),
    "pooled": (
        "Differences pooled over seeds, and over datasets in the rows of (all): random effects with Hartung and Knapp's interval. "
        "`mean` is the improvement, positive is better; a further run's true value lies between `prediction_low` and "
        "`prediction_high`; `share_between` is the share of the variance that lies between runs."
    ),
    "comparison": "All statistics, also by class, and for the correctly and wrongly classified images (`stratum`).",
    "selection": (
        "The gate with the largest mean effect size on the validation split, reported once on the explained one. There was "
        "one choice, and it did not see these images, so Holm runs over the metrics only."
    ),
    "selection_ranking": "All candidates on the validation split, best first.",
    "sae_quality": (
        "A row per SAE, measured on held-out images. `sound` is false for an SAE that breaks a level of the configuration's "
        "`quality`; `sound_…` says which. Reconstruction: explained variance, FVU = 1 − EV, cosine similarity. Use of the "
        "features: L0 with quartiles, dead and dense features. What the model still knows with the reconstruction in place: "
        "`same_prediction`, `kl`, accuracy, loss. Interpretability, each with what random features have (`…_random`): Moran's I, "
        "monosemanticity (by the model's own image features), class selectivity. docs/saes.md has the formulas."
    ),
    "feature_deletion": (
        "SAE features are deleted from the residual stream, and the rest of the model is run again: the k features with the "
        "largest |activation × gradient| (`score`), those of one sign (`positive`, `negative`), random ones of similar activation, "
        "the most and the least active. A row per group, k and comparison (`against`); the group `alone` has the rank correlation "
        "of expected and real changes of single features. *p* from the paired Wilcoxon test, Holm over the table."
    ),
    "sanity": (
        "Rank similarity of the maps before and after the model or the SAE was randomised: near 0 the map depends on what "
        "was learnt, near 1 it does not."
    ),
    "cases": (
        "A row per image, patch and feature of the case studies: the images that a gate improved and degraded most, and "
        "some drawn at random; their most changed patches; the feature with the strongest contribution in that direction."
    ),
    "features": (
        "The features that dominate patches of the explained images: how often each boosts and suppresses, in which classes, and in "
        "how many case studies it is named. `features/index.html` in the dataset's results leads to their pages, and to the cases."
    ),
}
BRIEF = {  # a line about each page, for the report
    "README": "what came out, what was run, and what is missing",
    "summary": "every experiment by every metric and fill, with verdicts",
    "hypotheses": "each gate against what could explain its effect",
    "methods": "every experiment with its cost",
    "judged": "how often each metric is right where the truth is known",
    "decomposition": "how much of a gain is order, and how much is values",
    "agreement": "how far the metrics agree",
    "feature_deletion": "what deleting SAE features does to the logit",
    "sae_quality": "everything that was measured of the SAEs",
    "pooled": "several seeds or datasets together",
    "comparison": "all statistics, also by class",
    "selection": "the gate that was chosen on the validation split",
    "selection_ranking": "all candidates on the validation split",
    "sanity": "maps before and after randomisation",
    "cases": "patch by patch",
    "features": "features that dominate patches",
    "configuration": "all settings",
    "versions": "software and machine",
}
_RESULT = ("verdict", "improvement_pct", "p_adjusted", "effect_size", "difference", "ci_low", "ci_high")
_TESTED = ("experiment", "metric", "fill", "dataset", "seed", "stratum", *_RESULT, "mean", "baseline_mean", "n")
FIRST = {  # the columns that a page shows before "all columns" is asked for
    "summary": _TESTED,
    "comparison": _TESTED,
    "selection": _TESTED,
    "hypotheses": (
        *("experiment", "against", "metric", "fill", "dataset", "seed", "stratum", *_RESULT),
        *("mean", "partner_mean", "n"),
    ),
    "pooled": (
        *(
            "experiment",
            "against",
            "metric",
            "fill",
            "dataset",
            "stratum",
            "verdict",
            "improvement_pct",
            "p_adjusted",
            "mean",
        ),
        *("ci_low", "ci_high", "prediction_low", "prediction_high", "n_runs", "n_better", "n_worse"),
    ),
    "sae_quality": (
        *("dataset", "seed", "layer", "kind", "sound", "explained_variance", "l0", "dead_share", "loss_recovered"),
        *("same_prediction", "kl", "morans_i", "monosemanticity", "class_selectivity", "warnings"),
    ),
    "cases": (
        *(
            "image_id",
            "picture",
            "experiment",
            "layer",
            "category",
            "rank",
            "true_class",
            "predicted_class",
            "patch_rank",
        ),
        *("row", "column", "change", "gate", "feature", "contribution", "share", "direction"),
    ),
}
COLUMNS = {
    "dataset": "the dataset of the configuration",
    "experiment": "id of the experiment; it tells the settings",
    "method": "attribution method; gates act on TransMM",
    "layers": "gated blocks, from 0",
    "construction": "what the gate's score is made of",
    "clamp_max": "gates lie between 1/clamp_max and clamp_max",
    "alpha": "steepness of the gate",
    "shuffle_decoder": "control: gradients through a shuffled decoder",
    "control": "what the experiment is a control by",
    "metric": "faithfulness metric",
    "higher_is_better": "direction of the metric",
    "fill": "what replaces a patch; empty if the metric perturbs nothing",
    "seed": "the seed, or the seeds of the split, the model and the SAEs",
    "stratum": "measurable images, all, those whose class the model got right or wrong, or those of a class",
    "n_measurable": "of these, images whose probability falls when everything is filled",
    "smallest_detectable": "effect size d_z that so many images find with a power of 80 %, before Holm",
    "equivalence_p": "test that the effect is below the margin (TOST)",
    "order_difference": "difference with the baseline's values laid in the map's order: what the order alone gains",
    "median": "median score",
    "minimum": "smallest score",
    "maximum": "largest score",
    "difference_se": "standard error of the difference",
    "n": "images the row's numbers rest on",
    "n_images": "images of the stratum",
    "n_undefined": "images whose score is undefined",
    "n_left_out": "images that the pair lacks",
    "n_skipped": "files of the dataset that could not be used",
    "mean": "mean score over the images",
    "sd": "standard deviation over the images",
    "sem": "standard error of the mean",
    "monte_carlo_se": "Faithfulness Correlation: the mean's error from drawing subsets",
    "n_with_ties": "images on which patches share a relevance",
    "baseline_mean": "mean of the baseline on the same images",
    "partner_mean": "mean of the partner on the same images",
    "difference": "experiment minus baseline (or partner), image by image",
    "ci_low": "95 % BCa bootstrap interval of the difference, lower end",
    "ci_high": "95 % BCa bootstrap interval of the difference, upper end",
    "improvement": "the difference, positive when better",
    "improvement_pct": "in % of the absolute mean of the baseline (or partner), positive when better",
    "effect_size": "d_z: mean difference over its standard deviation, positive when better",
    "p_value": "paired t-test",
    "p_adjusted": "after Holm",
    "significant": "p_adjusted below 0.05",
    "wilcoxon_p": "signed-rank test",
    "share_improved": "share of images that improved; ties do not count",
    "reason": "why a statistic is missing",
    "note": "what is degenerate about the experiment",
    "against": "what the gate, or the group of features, is held against",
    "group": "which features of an image are deleted",
    "k": "number of features that are deleted together",
    "absolute_change": "mean absolute change of the explained class's logit",
    "logit_change": "mean change of the explained class's logit",
    "absolute_change_low": "95 % BCa bootstrap interval of the mean, lower end",
    "absolute_change_high": "95 % BCa bootstrap interval of the mean, upper end",
    "expected": "first-order prediction of the logit's change: minus the sum of activation × gradient",
    "activation": "activation, summed over the patches (and the deleted features)",
    "removed": "norm of what is taken out, as a share of the norm of the patches' residual stream",
    "rank_correlation": "Spearman's, of expected and real changes of an image's single features; mean over the images",
    "verdict": "the test's result in words",
    "layer": "the block at whose end the SAE reads, from 0",
    "kind": "how the SAE was made: trained, loaded, or a control",
    "place": "whether the SAE says that it belongs to this layer and model",
    "sound": "false if the SAE breaks a level of `quality`",
    "warnings": "what is wrong with the SAE",
    "explained_variance": "share of the residuals' variance that the reconstruction explains",
    "fvu": "fraction of variance unexplained, 1 − explained variance; lower is better",
    "cosine_similarity": "of residual and reconstruction, mean over patches",
    "l0": "mean number of active features per patch",
    "l0_low": "lower quartile of it",
    "l0_median": "median of it",
    "l0_high": "upper quartile of it",
    "dead_share": "share of the features that were never active",
    "dense_share": "share of the features that were active on more than 10 % of the patches",
    "usage_entropy": "1 if all features are active equally often",
    "same_prediction": "share of images whose prediction stays with the reconstruction in place",
    "kl": "KL divergence of the probabilities with the reconstruction in place, nats",
    "accuracy_before": "accuracy of the model on these images",
    "accuracy_after": "accuracy with the reconstruction in place",
    "loss_recovered": "1: the loss is as without replacement; 0: as with the mean residual",
    "morans_i": "spatial autocorrelation of the features' maps, neighbours share an edge; mean over features",
    "morans_i_random": "its expectation for patches in random order",
    "morans_i_queen": "the same with neighbours that share a corner too, as in ViSAEBench",
    "monosemanticity": "similarity of the images that activate a feature, weighted by activation; mean over features",
    "monosemanticity_random": "mean similarity of all images: its expectation for random features",
    "class_selectivity": "1: a feature is active on one class only; 0: equally on all; mean over features",
    "class_selectivity_random": "the same with shuffled labels",
    "composite": "mean of the standardised gains on all metrics",
    "change": "change of the patch's relevance, of maps scaled from 0 to 1",
    "contribution": "the feature's term of the gate's score",
    "share": "size of the feature's term over the sizes of all terms of the patch's score",
    "direction": "whether the feature boosts or suppresses the patch",
    "boosts": "patches of all explained images where the feature dominates and relevance rose",
    "suppresses": "patches of all explained images where the feature dominates and relevance fell",
}
