// Errors: thrown as ag::Error, or returned as ag::Result by the functions whose names begin with `try_`.
#pragma once
#include <expected>
#include <functional>
#include <stdexcept>
#include <string>

#include "ag/config.hpp"

namespace ag {
AG_API_NAMESPACE {
/// What went wrong, with the place in the program or file. what() is the message alone.
  class Error : public std::runtime_error {
   public:
    Error(std::string code, std::string message, std::string place = {}, std::string text = {})
        : std::runtime_error(message), code_(std::move(code)), place_(std::move(place)), text_(std::move(text)) {}
    const std::string& code() const { return code_; }    ///< "AG2203"; `ag-compile explain` tells about it
    const std::string& place() const { return place_; }  ///< "main.cpp:12:5", "" if unknown
  /// The text that `ag-compile` would print: several lines, with the places that matter.
    std::string render() const;

   private:
    std::string code_, place_, text_;
  };

  template <class T>
  using Result = std::expected<T, Error>;

/// Receives warnings ("The .grad attribute of a Tensor that is not a leaf ..."). Without a handler they go to the
/// standard error stream, as in torch; an empty function silences them. Of the calling thread.
  void set_warning_handler(std::function<void(const std::string&)> handler);

}  // AG_API_NAMESPACE
}  // namespace ag
