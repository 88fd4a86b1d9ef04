// What every solver of A x = b shares: how a run starts, keeps its best iterate, verifies that it has converged, and ends.
//
// The residual is kept as r = (b - A x) / sigma with a power of two sigma, one except at extreme scales, so that sums
// of squares neither overflow nor vanish; x is kept in the units of the caller.
#pragma once

#include "lowrank/low_rank.hpp"
#include "solvers/norm.hpp"
#include "solvers/recurrence.hpp"

namespace krylov {

enum class OnCurvature : int { ignore, stop, boundary };

struct SystemOptions {
  double rtol = 1e-5, atol = 0.0;
  int64_t maxiter = 0;
  bool has_x0 = false;
  bool preconditioned = false;        // answered by precondition requests
  bool diagonal = false;              // the preconditioner is the vector in slot `diag`
  const LowRank* low_rank = nullptr;  // the preconditioner, fused; may change at a learn request
  bool learns = false;                // offer every direction with its product to learn from
  int judge_every = 0;                // 0: never
  bool verify = true;                 // recompute the residual at apparent convergence
  OnCurvature on_curvature = OnCurvature::ignore;
  double radius = 0.0;   // 0: none
  int max_restarts = 0;  // after breakdowns
  bool track = false;    // Bi-CG-STAB: curvature of every iterate
  double step = 0.0;     // Neumann: eta
};

// Scalars of a run, plain data. Norms are in units of sigma unless named otherwise.
struct SystemScalars {
  NormScales scales;
  Complex inv_sigma{1.0, 0};
  double sigma = 1.0;
  double b_norm = 0.0;         // true units
  double residual_norm = 0.0;  // true units, of the last Norm or Residual pass
  double rr = 0.0;             // r.r
  double tolerance = 0.0;
  double first_norm = 0.0;       // of the residual at the start, or when it was last recomputed
  double phi = 0.0;              // quadratic value / sigma^2, less that of x0
  double quadratic_start = 0.0;  // that of x0, in true units
  Status status = Status::running;
};

class LinearSystem : public Recurrence {
 public:
  // Slots that every system has; a solver's own follow.
  static constexpr int b = 0, x = 1, r = 2, v = 3, best = 4, kSystemSlots = 5;

  LinearSystem(int64_t n, Dtype dtype, int vectors, const SystemOptions& options);

  double sigma() const { return common().sigma; }
  double b_norm() const { return common().b_norm; }
  // Norm of the residual in true units: the recurrence's, and as recomputed from x (negative: not recomputed).
  double residual_norm() const;
  double true_residual_norm() const { return true_residual_norm_; }
  int restarts() const { return restarts_; }
  int64_t negative_curvatures() const { return negative_curvatures_; }
  bool indefinite_preconditioner() const { return indefinite_preconditioner_; }
  // p.A p / p.p of the direction of negative curvature: the most negative one met, or the one that ended the run.
  double direction_curvature() const { return direction_curvature_; }
  virtual int direction_slot() const { return -1; }
  // Bi-CG-STAB: the last iteration was complete after its first half.
  bool ended_at_half_step() const { return ended_at_half_step_; }

 protected:
  Request advance() final;
  virtual SystemScalars& common() = 0;
  const SystemScalars& common() const { return const_cast<LinearSystem*>(this)->common(); }
  const SystemOptions& options() const { return options_; }

  // The subclass's stages, from the first residual on.
  virtual Request iterate() = 0;
  // The residual has been replaced by the true one: choose the stage to go on from.
  virtual void restart() = 0;

  // Whether the residual meets the tolerance; and whether the recurrence claims so, which is worth a verification. A
  // residual below epsilon^2 of the first is such a claim too, as no true residual gets there.
  bool converged() const;
  bool seems_converged() const { return seems_converged(common().rr); }
  bool seems_converged(double rr) const;
  // Recomputes r = b - A x and ends, or goes on from the true residual, or gives up.
  Request verify();
  // Recomputes r = b - A x and calls restart(), after a breakdown; ends with `why` once the restarts are used up.
  Request restart_after(Status why);
  // Ends with the best iterate that was kept, and its true residual unless the caller wants the iterate as it is
  // (stopped by a rule, at the trust radius, or at negative curvature).
  Request conclude(Status why);
  // Whether an iterate with r.r = rr is the best so far and about to be left for a worse one: it is to be copied to
  // the slot `best`, which conclude() returns.
  bool leaves_best(double rr, double new_rr);
  void keep_best(double rr, double new_rr);
  // An iteration is complete: x and r belong together again.
  void record_iteration();
  // A judge request when one is due, none otherwise.
  Request close_iteration();

  int restarts_ = 0;
  int64_t negative_curvatures_ = 0;
  bool indefinite_preconditioner_ = false;
  bool ended_at_half_step_ = false;
  double direction_curvature_ = 0.0;

 private:
  enum class Phase {
    measure_b,
    ask_x0,
    first_residual,
    first_quadratic,
    scale,
    begin,
    iterate,
    true_residual,
    rescale,
    judge_truth
  };
  void record_start();
  Request scale_residual();
  Request begin();
  Request judge_truth();

  SystemOptions options_;
  Phase phase_;
  Status restart_reason_ = Status::running;
  double true_residual_norm_ = -1.0;
  double last_verified_ = -1.0;
  int useless_verifications_ = 0;
  Status ending_ = Status::running;  // what the run ends with, once its true residual is known
  double best_rr_ = -1.0;            // smallest r.r met; negative while nothing is known
  double saved_rr_ = -1.0;           // of the iterate in `best`, as the recurrence saw it
  double saved_true_rr_ = -1.0;      // smallest that a recomputation has found
};

}  // namespace krylov
