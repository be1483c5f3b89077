// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// @title Certificates that anyone can issue and only their issuer can revoke
/// @notice A certificate says that an issuer gave a title to a holder. Who trusts
/// which issuer is for readers to decide.
contract Certificates {
    struct Certificate {
        address issuer;
        address holder;
        string title;
        bool revoked;
    }

    /// @notice A certificate was issued.
    event Issued(uint256 indexed id, address indexed issuer, address indexed holder, string title);
    /// @notice A certificate was revoked by its issuer.
    event Revoked(uint256 indexed id);

    /// @notice No certificate has this id.
    error Unknown(uint256 id);
    /// @notice The certificate has been revoked.
    error AlreadyRevoked(uint256 id);
    /// @notice Only the issuer may do this.
    error NotIssuer(uint256 id, address issuer);
    /// @notice A certificate needs a holder and a title.
    error Incomplete();

    /// @notice How many certificates there are; ids run from 1 to this number.
    uint256 public count;

    mapping(uint256 id => Certificate) private certificates;

    /// @notice Issues a certificate.
    /// @return id of the new certificate
    function issue(address to, string calldata title_) external returns (uint256 id) {
        if (to == address(0) || bytes(title_).length == 0) revert Incomplete();
        id = ++count;
        certificates[id] = Certificate({issuer: msg.sender, holder: to, title: title_, revoked: false});
        emit Issued(id, msg.sender, to, title_);
    }

    /// @notice Revokes a certificate. It stays readable with {get}.
    function revoke(uint256 id) external {
        Certificate storage c = valid(id);
        if (c.issuer != msg.sender) revert NotIssuer(id, c.issuer);
        c.revoked = true;
        emit Revoked(id);
    }

    /// @notice Who holds a certificate that has not been revoked.
    function holder(uint256 id) external view returns (address) {
        return valid(id).holder;
    }

    /// @notice The title of a certificate that has not been revoked.
    function title(uint256 id) external view returns (string memory) {
        return valid(id).title;
    }

    /// @notice All of a certificate, revoked or not.
    function get(uint256 id) external view returns (Certificate memory) {
        return known(id);
    }

    function known(uint256 id) private view returns (Certificate storage c) {
        c = certificates[id];
        if (c.issuer == address(0)) revert Unknown(id);
    }

    function valid(uint256 id) private view returns (Certificate storage c) {
        c = known(id);
        if (c.revoked) revert AlreadyRevoked(id);
    }
}
