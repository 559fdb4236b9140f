from dataclasses import dataclass

from trainables.classifiers.base import Classifier, Config, Fit, FitState, Predictor, setting


@dataclass(frozen=True)
class CentroidConfig(Config):
    temperature: float = setting(1.0, "what squared distances are divided by")


class CentroidFit(Fit):
    finished, curves = False, {}

    def __init__(self, data, config):
        self.data, self.config = data, config

    def step(self):
        import torch

        x, y = self.data.train.x, self.data.train.y
        means = [x[y == c].mean(0) for c in range(self.data.n_classes)]
        self.model = Nearest(torch.stack(means).nan_to_num(), self.config)
        self.finished = True

    def log_probabilities(self, x):
        return self.model.log_probabilities(x)

    def outcome(self):
        return {"best_epoch": 1, "epochs_run": 1}

    def kept(self):
        return FitState({"centroids": self.model.centroids}, {})


@dataclass(frozen=True)
class Nearest(Predictor):
    centroids: object
    config: CentroidConfig

    def log_probabilities(self, x):
        import torch

        distances = torch.cdist(x, self.centroids).square().double()
        return (-distances / self.config.temperature).log_softmax(1).cpu().numpy()


class Centroids(Classifier):
    name, version, Config, seeded = "centroids", 1, CentroidConfig, False

    def host_bytes(self, size, config):
        return 12 * size.n_samples * size.n_features + 2**30

    def start(self, data, config, seed):
        return CentroidFit(data, config)

    def load(self, kept, n_features, n_classes, config):
        return Nearest(kept.tensors["centroids"], config)
