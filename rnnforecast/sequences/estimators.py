"""Regression and classification of whole sequences by recurrent networks."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    assert_all_finite,
    check_array,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)
from torch import Tensor
from torch.nn import functional

from rnnforecast._validation import check_bool, check_choice, check_int
from rnnforecast.exceptions import DataError
from rnnforecast.nn.attention import ATTENTIONS
from rnnforecast.nn.sequence import SequenceNetwork, SequenceSpec
from rnnforecast.outputs import LOSSES
from rnnforecast.parameters import checked, estimator, refitted
from rnnforecast.sequences.reading import SequenceBatch, SequenceSource, as_sequences, padded
from rnnforecast.training import resolve_device, seeds_of, useful_threads
from rnnforecast.training.trained import TrainedEstimator, for_answers

__all__ = ["SequenceClassifier", "SequenceRegressor"]

_CHUNK = 1024  # sequences answered at once


def _location_and_scale(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the first axis; of a constant the deviation is one."""
    location, deviation = values.mean(0), values.std(0)
    return location, np.where(deviation > 1e-12 * np.abs(location), deviation, 1.0)


@estimator
class SequenceEstimator(TrainedEstimator):
    """Base of the estimators of whole sequences.

    Parameters
    ----------
    n_channels : int, optional
        Numbers of one step in a 2-D X, each row of which is a flattened window: the first
        ``n_channels`` columns are its first step, and so on, as in
        ``X_3d.reshape(len(X_3d), -1)``, with the same answers as for the 3-D array. None: every
        column is a step, and scaled by itself, so that lags may stand beside calendar columns.
    n_tokens : int, optional
        Size of the vocabulary, where X holds integer tokens: 1 to ``n_tokens - 1``, and 0 for
        padding, which is left out wherever it stands. None: X holds numbers.
    embedding_size : int, default 16
        Numbers that a token is embedded in.
    hidden_size : int, default 32
        Units of each recurrent layer and direction.
    n_layers : int, default 1
        Recurrent layers on top of one another.
    bidirectional : bool, default False
        Read sequences in both directions.
    residual : bool, default False
        Add each upper layer's input to its output.
    attention : {"additive", "dot", "multihead"}, optional
        Attention over the outputs of all steps, asked by the last one.
    batch_size : int, "full" or None, default 32
        Sequences of a step; None: 32. "full": all of them in one step.
    max_epochs : int, default 100
    lr : float, default 0.01
    early_stopping : bool, default False
        Stop after ``patience`` epochs without a better loss on sequences that are held out, and
        keep the best weights.
    validation_fraction : float, default 0.1
        Share of the sequences, drawn by chance, that ``early_stopping`` holds out. Windows that
        overlap are not independent: prefer a fixed ``max_epochs``, found by ``TimeSeriesSplit``.

    Attributes
    ----------
    n_features_in_ : int
        Columns of a 2-D X, else features of a step.
    """

    n_channels: int | None = checked(None, check_int, none=True)
    n_tokens: int | None = checked(None, check_int, minimum=2, none=True)
    embedding_size: int = checked(16, check_int)
    hidden_size: int = checked(32, check_int)
    n_layers: int = checked(1, check_int)
    bidirectional: bool = checked(False, check_bool)
    residual: bool = checked(False, check_bool)
    attention: str | None = checked(None, check_choice, choices=(None, *ATTENTIONS))
    batch_size: Any = 32
    max_epochs: int = 100
    lr: float = 1e-2
    early_stopping: bool = False

    # -- hooks -------------------------------------------------------------------------------------

    @abstractmethod
    def _read_truth(self, y: Any) -> tuple[dict[str, Any], np.ndarray, int]:
        """Fitted attributes of the truth, the truth as it is trained on, and outputs for it."""

    @abstractmethod
    def _loss(self, fitted: dict[str, Any], device: torch.device) -> Any:
        """Loss of answers (batch, n_outputs) against their truth."""

    # -- fit ---------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any) -> SequenceEstimator:
        """Train on sequences and the answer to each.

        Parameters
        ----------
        X : array of shape (n, columns) or (n, time, features), or list of n sequences
            Flattened windows in order of time; windows; or arrays of several lengths, each (time,)
            or (time, features). With ``n_tokens``, whole numbers of shape (n, time), or lists.
        y : array-like, shape (n,) or (n, outputs)

        Returns
        -------
        self

        Raises
        ------
        DataError
            If parameters or sequences cannot be used.
        ValueError
            As of every estimator of scikit-learn.
        """
        self._check_params()
        owner = type(self).__name__
        view = object.__new__(type(self))
        view.__dict__.update({k: v for k, v in vars(self).items() if not k.endswith("_")})
        if y is None:
            raise DataError(f"{owner} requires y to be passed, but the target y is None")
        x, lengths = view._read(X, reset=True)
        fitted, truth, n_outputs = view._read_truth(y)
        check_consistent_length(x, truth)
        if self.n_tokens is None:  # of a feature in all steps, or of each column
            of_columns = not view.ragged_ and self.n_channels is None
            seen = x if of_columns else x[np.arange(x.shape[1]) < lengths[:, None]]
            view.location_, view.scale_ = _location_and_scale(seen)
        device = resolve_device(owner, self.device)
        steps, n_steps = view._tensors(x, lengths, torch.float32)
        source = SequenceSource(
            steps.to(device),
            n_steps.to(device),
            torch.from_numpy(truth).to(device),
            min({"full": len(x), None: 32}.get(self.batch_size, self.batch_size), len(x)),
        )
        source, held = self._split(source)
        sizes: dict[str, Any] = {
            "n_features": self.embedding_size if self.n_tokens else source.x.shape[2]
        }
        for name in ("cell", "hidden_size", "n_layers", "bidirectional", "residual", "dropout"):
            sizes[name] = getattr(self, name)
        spec = SequenceSpec(
            **sizes, n_outputs=n_outputs, attention=self.attention, n_tokens=self.n_tokens
        )
        error = self._loss(fitted, device)

        def loss(network: Any, batch: SequenceBatch) -> Tensor:
            return error(network(batch.x, batch.lengths), batch.truth)

        learner = self._learner(
            network=lambda: SequenceNetwork(spec),
            source=source,
            loss=loss,
            validation=[] if held is None else [(held, 1.0)],
            threads=useful_threads(source.batch_size, self.hidden_size),
            device=device,
        )
        fitted |= {name: v for name, v in vars(view).items() if name.endswith("_")}
        fitted |= self._train(learner)
        fitted["networks_"] = [for_answers(network) for network in fitted["networks_"]]
        refitted(self, fitted)
        return self

    def _split(self, source: SequenceSource) -> tuple[SequenceSource, SequenceBatch | None]:
        """Sequences to train on and, in one batch, those that validate."""
        n = len(source.x)
        n_held = int(self.validation_fraction * n) if self.early_stopping else 0
        if not n_held:
            return source, None
        generator = torch.Generator().manual_seed(seeds_of(self.random_state, 1)[0])
        order = torch.randperm(n, generator=generator).to(source.x.device)
        return source.some(order[n_held:]), source.take(order[:n_held])

    # -- sequences ---------------------------------------------------------------------------------

    def _read(self, X: Any, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (n, time, features), or tokens (n, time), and the steps that each row has."""
        owner = type(self).__name__
        rows = as_sequences(owner, X)
        if reset:
            self.ragged_ = rows is not None or self.n_tokens is not None
        if rows is None and not self.ragged_:
            x = validate_data(self, X, dtype=np.float64, reset=reset)
            width = self.n_channels or 1
            if x.shape[1] % width:
                raise DataError(
                    f"{owner}: a row of X must hold n_channels={width} numbers of each step. "
                    f"Got {x.shape[1]} columns"
                )
            x = x.reshape(len(x), -1, width)
            return x, np.full(len(x), x.shape[1])
        if rows is None:
            rows = self._rows(X)
        width = rows[0].shape[1]
        if reset:
            self.n_features_in_ = width
        elif not self.ragged_ or width != self.n_features_in_:
            was = f"sequences of {self.n_features_in_} features a step"
            if not self.ragged_:
                was = "a 2-D X (fit to an array of shape (n, time, features) to allow any length)"
            raise DataError(f"{owner} was fitted to {was}. Got sequences of {width} features")
        return padded(rows) if self.n_tokens is None else self._tokens(rows)

    def _rows(self, X: Any) -> list[np.ndarray]:
        """Sequences (time, features); a row of a table is one of one feature."""
        rows = as_sequences(type(self).__name__, X)
        return list(check_array(X, dtype=np.float64)[:, :, None]) if rows is None else rows

    def _tokens(self, rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (n, longest), without the padding that stood among them."""
        owner, n_tokens = type(self).__name__, self.n_tokens
        assert n_tokens is not None
        if rows[0].shape[1] != 1:
            raise DataError(f"{owner}: tokens have one number a step. Got {rows[0].shape[1]}")
        for k, row in enumerate(rows):
            wrong = (row != np.floor(row)) | (row < 0) | (row >= n_tokens)
            if wrong.any():
                raise DataError(
                    f"{owner}: tokens must be whole numbers from 0 (padding) to {n_tokens - 1}. "
                    f"Got {row[wrong][0]:g} in row {k}"
                )
        used = [row[row[:, 0] != 0] for row in rows]
        x, lengths = padded([row if len(row) else np.zeros((1, 1)) for row in used])
        return x[..., 0].astype(np.int64), lengths

    def _tensors(self, x: np.ndarray, lengths: np.ndarray, dtype: Any) -> tuple[Tensor, Tensor]:
        """What a network reads: numbers scaled, zero after a row's end."""
        steps = torch.from_numpy(lengths)
        if self.n_tokens is not None:
            return torch.from_numpy(x), steps
        scaled = (x - self.location_) / self.scale_
        scaled[np.arange(scaled.shape[1]) >= lengths[:, None]] = 0.0
        return torch.from_numpy(scaled).to(dtype), steps

    @torch.inference_mode()
    def _answers(self, X: Any, attention: bool = False) -> Tensor:
        """What the members answer, (n_members, n, n_outputs), or where they look, (..., time)."""
        check_is_fitted(self)
        weight = next(self.network_.parameters())
        x, lengths = (
            part.to(weight.device)
            for part in self._tensors(*self._read(X, reset=False), weight.dtype)
        )
        source = SequenceSource(x, lengths, lengths, _CHUNK)
        parts = []
        for rows in torch.arange(len(x), device=weight.device).split(_CHUNK):
            batch = source.take(rows)
            found = [each.answer(batch.x, batch.lengths)[attention] for each in self.networks_]
            parts.append(torch.stack(found).cpu())
        longest = max(part.shape[-1] for part in parts)
        return torch.cat([functional.pad(p, (0, longest - p.shape[-1])) for p in parts], 1)

    def attention_weights(self, X: Any) -> np.ndarray:
        """How much the answer to each sequence looks at each of its steps.

        Parameters
        ----------
        X : as for ``fit``

        Returns
        -------
        ndarray of shape (n, time)
            Each row adds up to one, with zeros for padding and after the end of a sequence; of
            several members the mean.

        Raises
        ------
        DataError
            If the estimator has no attention.
        """
        check_is_fitted(self)
        if self.network_.spec.attention is None:
            raise DataError(f"{type(self).__name__} has no attention: fit it with attention='dot'")
        weights = self._answers(X, attention=True).mean(0).double().numpy()
        if self.n_tokens is None:
            return weights
        tokens = padded(self._rows(X))[0][..., 0]  # with the padding among them
        found = np.zeros(tokens.shape)
        n_used = (tokens != 0).sum(1)
        found[tokens != 0] = weights[np.arange(weights.shape[1]) < n_used[:, None]]
        return found

    def __sklearn_is_fitted__(self) -> bool:
        return "networks_" in vars(self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


@estimator
class SequenceRegressor(RegressorMixin, SequenceEstimator):
    """Regression of one number, or several, on a whole sequence.

    Parameters
    ----------
    loss : {"mse", "mae", "huber"}, default "mse"

    Examples
    --------
    >>> import numpy as np
    >>> from rnnforecast import SequenceRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=n) for n in rng.integers(3, 9, size=200)]
    >>> y = np.array([x.sum() for x in X])
    >>> bool(SequenceRegressor(cell="gru", random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    loss: str = checked("mse", check_choice, choices=LOSSES)

    def _read_truth(self, y):
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        values = y[:, None] if y.ndim == 1 else y
        location, scale = _location_and_scale(values)
        fitted = {"y_location_": location, "y_scale_": scale, "single_": y.ndim == 1}
        return fitted, ((values - location) / scale).astype(np.float32), values.shape[1]

    def _loss(self, fitted, device):
        error = LOSSES[self.loss]
        return lambda answers, truth: error(answers - truth).mean()

    def predict(self, X: Any) -> np.ndarray:
        """The answer to each sequence of X, (n,) or (n, outputs)."""
        values = self._answers(X).mean(0).double().numpy() * self.y_scale_ + self.y_location_
        return values[:, 0] if self.single_ else values

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


@estimator
class SequenceClassifier(ClassifierMixin, SequenceEstimator):
    """Classification of whole sequences.

    Parameters
    ----------
    class_weight : dict, "balanced" or None, default None
        Weights of the classes in the loss; "balanced" are inverse to their frequency.

    Attributes
    ----------
    classes_ : ndarray
        The labels, in the order of ``predict_proba``.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnforecast import SequenceClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.integers(1, 5, size=(200, 8))  # is there a token 4?
    >>> y = np.where((X == 4).any(axis=1), "yes", "no")
    >>> model = SequenceClassifier(n_tokens=5, random_state=0).fit(X, y)
    >>> model.predict([[1, 2, 4, 1], [3, 3, 1, 2]]).tolist()
    ['yes', 'no']
    """

    class_weight: Any = None

    def _read_truth(self, y):
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        encoder = LabelEncoder().fit(y)
        classes = encoder.classes_
        if len(classes) < 2:
            raise DataError(
                f"{type(self).__name__}: y must have at least two classes. Got one class: "
                f"{classes[0]!r}"
            )
        weight = compute_class_weight(self.class_weight, classes=classes, y=np.asarray(y))
        fitted = {"classes_": classes, "class_weight_": weight}
        return fitted, encoder.transform(y).astype(np.int64), len(classes)

    def _loss(self, fitted, device):
        weight = torch.as_tensor(fitted["class_weight_"], dtype=torch.float32, device=device)

        def loss(answers: Tensor, truth: Tensor) -> Tensor:
            return functional.cross_entropy(answers, truth, weight.to(answers))

        return loss

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class, (n, n_classes) in the order of ``classes_``."""
        return torch.softmax(self._answers(X), -1).mean(0).double().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each sequence of X, (n,)."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]
